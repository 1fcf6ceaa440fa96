"""Pickles that run a command in a careless reader run nothing here, wherever they lie."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from ckptdiff.checkpoint import TensorRef
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats import open_checkpoint, unpickle
from ckptdiff.formats import torch_zip as reader
from ckptdiff.formats.inert import Placeholder
from tests.support.hostile_system import megatron, rank_file
from tests.support.hostile_torch import hf_bin, mapping, program, tensor, torch_zip
from tests.support.hostile_weapons import CONTROL, MODULE, weapons
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.mostly_slow(one_in=4)
NAMES = tuple(weapons(Path("canary")))
INERT = {"GLOBAL and REDUCE", "eval", "getattr", "INST", "OBJ", "NEWOBJ", "dotted STACK_GLOBAL"}


def run(code: str, folder: Path, *args: str, data: bytes = b"") -> tuple[int, str]:
    """Run Python code in `folder`; return its exit status and what it said of errors."""
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(
        command, cwd=folder, input=data, capture_output=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stderr.decode()


def trouble(path: Path) -> CkptDiffError | None:
    """Open a checkpoint and return the error it brings."""
    try:
        open_checkpoint(path)
    except CkptDiffError as error:
        return error
    return None


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return the file that a weapon makes if it goes off."""
    file = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(MODULE.format(str(file)))
    return file


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("name", NAMES)
def test_a_careless_reader_would_run_it(name: str, canary: Path) -> None:
    run(CONTROL, canary.parent, data=program(weapons(canary)[name]))
    assert canary.exists()


PLACES: dict[str, Callable[[bytes], Callable[[Path], Path]]] = {
    "beside the tensors": lambda body: hf_bin(
        torch_zip(program(mapping({"a": tensor(), "evil": body})))
    ),
    "for all tensors": lambda body: hf_bin(torch_zip(program(body))),
    "in a rank's tree": lambda body: megatron(rank_file({"rng_state": body})),
    "in a rank's arguments": lambda body: megatron(rank_file(args={"bf16": body})),
    "for a rank's arguments": lambda body: megatron(rank_file({"args": body})),
    "for a rank's model": lambda body: megatron(rank_file({"model": body})),
    "among a rank's tensors": lambda body: megatron(
        rank_file({"model": mapping({"a": tensor(), "b": body})})
    ),
}


@pytest.mark.mostly_slow(one_in=168)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_inert_in_a_checkpoint(name: str, place: str, canary: Path) -> None:
    folder = canary.parent / "checkpoint"
    folder.mkdir()
    path = PLACES[place](weapons(canary)[name])(folder)
    with mock.patch.object(sys, "path", [str(canary.parent), *sys.path]):
        error = trouble(path)
    assert error is None or str(folder) in str(error)
    assert not canary.exists()
    assert "canary_module" not in sys.modules


@pytest.mark.parametrize("name", NAMES)
def test_it_is_inert_in_a_bare_pickle(name: str, canary: Path) -> None:
    with contextlib.suppress(CkptDiffError):
        unpickle.load(program(weapons(canary)[name]))
    assert not canary.exists()


@pytest.mark.parametrize("name", sorted(INERT))
def test_what_lies_beside_it_is_read(name: str, canary: Path) -> None:
    file = canary.parent / "weights.pt"
    file.write_bytes(torch_zip(program(mapping({"a": tensor(), "evil": weapons(canary)[name]}))))
    tree = reader.read_index(file)
    assert isinstance(tree["a"], TensorRef)
    assert isinstance(tree["evil"], Placeholder)


MAIN = "import sys; from ckptdiff.cli.main import main; sys.exit(main())"
COMMANDS = (["ls"], ["ls", "--json"], ["ls", "--raw"], ["diff", "--json", "-"], ["diff"])


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "place", ["beside the tensors", "in a rank's tree", "in a rank's arguments"]
)
def test_no_command_runs_any_of_them(command: list[str], place: str, canary: Path) -> None:
    folder = canary.parent / "checkpoint"
    folder.mkdir()
    body = b"(" + b"".join(weapons(canary)[name] for name in sorted(INERT)) + b"l"
    path = str(PLACES[place](body)(folder))
    paths = [path, path] if command[0] == "diff" else [path]
    status, errors = run(MAIN, canary.parent, *command, *paths)
    assert status in (0, 1, 2), errors
    assert "Traceback" not in errors
    assert not canary.exists()
