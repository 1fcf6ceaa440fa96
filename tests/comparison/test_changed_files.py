"""A checkpoint that is written again while it is compared: no result mixes old and new."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.diagnosis.run import diagnosed
from ckptdiff.errors import UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.kernels import memory
from ckptdiff.kernels.views import View
from ckptdiff.result_cache import ResultCache
from tests.support.pairs import noise, open_pair, pair, set_sizes

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    Change = Callable[[Path, Path], object]

TENSORS = {f"w{n}": noise(16, 16, seed=n) for n in range(6)}
OTHERS = {**TENSORS, "w0": noise(16, 16, seed=9)}


def replace_it(file: Path, new: Path) -> None:
    """Give the file's name to another of the same size and time."""
    status = file.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(file)


def write_in_place(file: Path, new: Path) -> None:
    status = file.stat()
    file.write_bytes(new.read_bytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def touch(file: Path, _new: Path) -> None:
    os.utime(file, ns=(0, 0))


def grow(file: Path, _new: Path) -> None:
    with file.open("ab") as out:
        out.write(b"\0")


CHANGES = {"replaced": replace_it, "in place": write_in_place, "touched": touch, "grown": grow}


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], object]:
    """Return a function that changes a file: its content becomes that of TENSORS, if any."""
    new = tmp_path / "new.safetensors"
    save_file(TENSORS, new)
    return lambda file: CHANGES[request.param](file, new)


def test_nothing_is_said_of_what_changed_before_it_was_read(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    """What B holds now is what A holds, and still it is not the same: its header is another's."""
    a, b = open_pair(*pair(tmp_path, TENSORS, OTHERS))
    file = tmp_path / "b/model.safetensors"
    change(file)
    results = list(diff(a, b, InlineExecutor()))
    assert [result.status for result in results] == ["error"] * len(TENSORS)
    assert all(f"{file}: was written again" in str(result.error) for result in results)
    assert all(result.numbers is None for result in results)


def test_what_was_read_before_the_change_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    a, b = open_pair(*pair(tmp_path, TENSORS, OTHERS))
    found: dict[str, str] = {}
    for result in diff(a, b, InlineExecutor()):
        if not found:
            change(tmp_path / "b/model.safetensors")
        found[result.name] = result.status
    first, *_, last = found.values()
    assert first in ("differ", "same")
    assert last == "error"
    assert set(found.values()) <= {"differ", "same", "error"}


class Changing(InlineExecutor):
    """Has a file changed before the first job, or after each."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = super().submit(fn, *args, **kwargs)
        self.change()
        return done


def test_a_change_right_after_a_job_is_noticed(tmp_path: Path) -> None:
    a, b = open_pair(*pair(tmp_path, TENSORS, TENSORS))
    executor = Changing(lambda: touch(tmp_path / "a/model.safetensors", tmp_path))
    assert {result.status for result in diff(a, b, executor)} == {"error"}


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_diagnosis_ends_where_a_file_changes(tmp_path: Path, side: str) -> None:
    swapped = {**TENSORS, "w0": TENSORS["w1"], "w1": TENSORS["w0"]}
    a, b = open_pair(*pair(tmp_path, TENSORS, swapped))
    results = list(diff(a, b, InlineExecutor()))
    assert {result.status for result in results} == {"same", "differ"}
    file = tmp_path / side / "model.safetensors"
    executor = Changing(lambda: touch(file, file))
    findings, trouble = diagnosed(a, b, results, (), executor)
    touch(file, file)
    assert not findings
    assert f"{file}: was written again" in str(trouble)


def test_a_file_that_is_gone_after_it_was_read_was_read(tmp_path: Path) -> None:
    a, b = open_pair(*pair(tmp_path, TENSORS, TENSORS))
    executor = Changing(lambda: shutil.rmtree(tmp_path / "b", ignore_errors=True))
    assert {result.status for result in diff(a, b, executor)} == {"same"}


def test_results_are_kept_for_the_files_as_they_were_opened(tmp_path: Path) -> None:
    paths = pair(tmp_path, TENSORS, OTHERS)
    a, b = map(open_checkpoint, paths)
    touch(tmp_path / "b/model.safetensors", tmp_path)
    with ResultCache(tmp_path / "kept", a, b, "cast") as cache:
        cache.close()
    later = ResultCache(tmp_path / "kept", a, open_checkpoint(paths[1]), "cast")
    assert later._fingerprint != cache._fingerprint


def test_a_folder_that_is_opened_twice_is_held_against_both(tmp_path: Path) -> None:
    path, _ = pair(tmp_path, TENSORS, TENSORS)
    a = open_checkpoint(path)
    touch(tmp_path / "a/model.safetensors", tmp_path)
    both = assemble_pair(a, open_checkpoint(path))
    assert {result.status for result in diff(*both, InlineExecutor())} == {"error"}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_has_become_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    os.mkfifo(file) if kind == "pipe" else file.mkdir()
    with pytest.raises(UnreadableFile, match="file: is not a regular file"):
        memory.matrix(View(str(file), 0, (1, 1), (1, 1), "F32"))
