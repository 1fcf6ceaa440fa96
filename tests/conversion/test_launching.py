"""The line that starts Megatron: a shell reads from it what was meant, wherever it stands."""

from __future__ import annotations

import ast
import subprocess
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Parallelism
from ckptdiff.conversion.launching import launch_of
from ckptdiff.conversion.plan import Target
from ckptdiff.formats import open_checkpoint
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from ckptdiff.config.programs import Version

ODD = [
    *("-out", "a b", 'it\'s $HOME `x` "y"', "new\nline\t!"),
    *("back\\slash\x1b[0m\\n", "é中", "x\udcff1"),
]


def line_of(folder: Path, name: str, version: Version = "0.16") -> str:
    """Return the line for a result in the working folder, with a tokenizer of the same name."""
    make_hf(folder / "hf" / name)
    (folder / "hf" / name / "tokenizer.json").write_text("{}")
    side = assemble(open_checkpoint(Path("hf", name)))
    target = Target("megatron", Parallelism(tp=2), version=version)
    args = Namespace(ckpt_format="torch", transformer_impl="local")
    return launch_of(target, args, Path(name), "iter_0000001/__0_0.distcp", 60, [side])


@pytest.mark.parametrize("name", ODD)
def test_bash_reads_each_path_whole_and_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = line_of(tmp_path, name)
    assert line.isprintable()
    ahead, torchrun, rest = line.split(" ", 2)
    assert (ahead, torchrun) == ("CUDA_DEVICE_MAX_CONNECTIONS=1", "torchrun")
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {rest}"], capture_output=True, check=True, cwd="/"
    )
    words = [Path(word.decode(errors="surrogateescape")) for word in done.stdout.split(b"\0")]
    given = {str(flag): word for flag, word in pairwise(words)}
    assert given["--load"] == tmp_path / name
    assert given["--tokenizer-model"] == tmp_path / "hf" / name


@pytest.mark.parametrize("name", ODD)
def test_python_reads_the_path_for_megatron_bridge(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = line_of(tmp_path, name, "bridge")
    assert line.isprintable()
    call = ast.parse(line).body[1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    assert ast.literal_eval(call.value.args[0]) == str(tmp_path / name / "iter_0000001")
