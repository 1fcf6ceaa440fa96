"""A file that shrinks or goes while it is compared costs the tensors that lay in it, no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.executor import WorkerPool
from ckptdiff.formats import open_checkpoint
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.results import TensorDiff

LARGE = {"vocab": 4096, "hidden": 256, "heads": 8, "head_dim": 32, "ffn": 512, "single": True}


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_nothing_is_said_of_a_file_that_was_cut_since_its_header_was_read(
    share: float, tiny_hf: Callable[..., Path], copy_of: Callable[[Path], Path]
) -> None:
    """It may have been cut to be written anew, so what lies before the cut is not known either."""
    source = tiny_hf(**LARGE)
    copy = copy_of(source)
    pair = assemble_pair(open_checkpoint(source), open_checkpoint(copy))
    file = copy / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * share))
    with WorkerPool(2) as pool:
        results = {result.name: result for result in diff(*pair, pool)}
    assert results.keys() == pair[1].checkpoint.shards[0].tensors.keys()
    for name, result in results.items():
        assert result.status == "error", name
        assert str(file) in str(result.error)


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("change", ["shrinks", "goes", "becomes a folder"])
def test_a_file_that_changes_meanwhile_costs_no_tensor_of_another_file(
    change: str, tiny_hf: Callable[..., Path], copy_of: Callable[[Path], Path]
) -> None:
    source = tiny_hf(**{**LARGE, "single": False, "shards": 3})
    copy = copy_of(source)
    pair = assemble_pair(open_checkpoint(source), open_checkpoint(copy))
    victim = sorted(copy.glob("*.safetensors"))[1]
    refs = pair[1].checkpoint.shards[0].tensors
    results: dict[str, TensorDiff] = {}
    with WorkerPool(2) as pool:
        for result in diff(*pair, pool):
            if not results:
                if change == "shrinks":
                    os.truncate(victim, 100)
                else:
                    victim.unlink()
                if change == "becomes a folder":
                    victim.mkdir()
            results[result.name] = result
    assert results.keys() == refs.keys()
    others = [name for name, ref in refs.items() if ref.file != victim]
    assert {results[name].status for name in others} == {"same"}
    assert {results[name].status for name in refs.keys() - set(others)} <= {"same", "error"}


# The command, with B's file cut as soon as its header has been read.
CUT = """
import os, sys
from ckptdiff import formats
from ckptdiff.cli.main import main

real = formats.open_checkpoint

def open_and_cut(path, **options):
    opened = real(path, **options)
    if str(path) == sys.argv[-1]:
        os.truncate(opened.files[0], 4096)
    return opened

formats.open_checkpoint = open_and_cut
sys.exit(main(["diff", "--json", "-", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_the_command_reports_an_error_row_and_exits_with_2(
    tiny_hf: Callable[..., Path], copy_of: Callable[[Path], Path]
) -> None:
    source = tiny_hf(**LARGE)
    copy = copy_of(source)
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(source), str(copy)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["counts"]["error"] > 0
    nothing_read = document["counts"]["error"] == len(document["tensors"])
    assert document["weights"] == document["verdict"] == ("trouble" if nothing_read else "differ")
    assert all(row["error"] for row in document["tensors"] if row["status"] == "error")
