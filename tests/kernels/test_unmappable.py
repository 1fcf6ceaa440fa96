"""Files on a file system that cannot map them are read: the same results, in as little memory."""

from __future__ import annotations

import errno
import mmap
import resource
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.comparison.inspect import glance, windows
from ckptdiff.errors import UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.kernels import memory
from ckptdiff.kernels.views import View
from tests.support.conversions import converted, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare, sparse

TENSOR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes mmap answer an errno from now on."""

    def start(number: int) -> None:
        def refused(*_: object, **__: object) -> mmap.mmap:
            raise OSError(number, "refused")

        memory._mapped.clear()
        monkeypatch.setattr(mmap, "mmap", refused)

    yield start
    memory._mapped.clear()


# What a file system answers that cannot map, and the system where a limit is reached.
REFUSALS = [errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM, errno.EMFILE]


@pytest.mark.parametrize("number", REFUSALS)
def test_a_view_is_read_where_it_cannot_be_mapped(tmp_path: Path, refuse: Any, number: int) -> None:
    numbers = np.arange(60, dtype="<f4").reshape(6, 10)
    (tmp_path / "file").write_bytes(b"head" + numbers.tobytes())
    refuse(number)
    view = View(str(tmp_path / "file"), 4 + 4 * 12, (3, 5), (10, 1), "F32")
    assert np.array_equal(memory.matrix(view), numbers[1:4, 2:7])
    turned = View(str(tmp_path / "file"), 4, (10, 6), (1, 10), "F32")
    assert np.array_equal(memory.matrix(turned), numbers.T)


def test_another_refusal_is_an_error_that_says_what(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "file").write_bytes(bytes(4))
    refuse(errno.EACCES)
    with pytest.raises(UnreadableFile, match="file: refused"):
        memory.matrix(View(str(tmp_path / "file"), 0, (1, 1), (1, 1), "F32"))


def test_comparison_conversion_and_inspection_give_the_same(tmp_path: Path, refuse: Any) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        make_hf(tmp_path / name, seed=seed)

    def results() -> tuple[Any, ...]:
        found = compare(tmp_path / "a", tmp_path / "b")
        tensor = assemble(open_checkpoint(tmp_path / "a")).tensors[TENSOR]
        seen = windows(tensor, tensor, around=(3, 4), rows=5, columns=6, executor=InlineExecutor())
        return found.results, glance(tensor, InlineExecutor()).result().summary, seen.result()

    mapped = results()
    refuse(errno.ENODEV)
    assert results() == mapped
    converted(tmp_path / "a", tmp_path / "out", "hf")
    written, source = hf_tensors(tmp_path / "out"), hf_tensors(tmp_path / "a")
    assert written.keys() == source.keys()
    assert all(bool((written[name] == source[name]).all()) for name in source)


def test_reading_takes_no_more_memory_than_a_few_pieces(tmp_path: Path, refuse: Any) -> None:
    shapes = {"w": (4096, 8192)}  # 128 MiB
    for name in ("a", "b"):
        sparse(tmp_path / name, shapes)
    refuse(errno.ENODEV)
    tracemalloc.start()
    try:
        assert compare(tmp_path / "a", tmp_path / "b").summary.verdict == "same"
        tensor = assemble(open_checkpoint(tmp_path / "a")).tensors["w"]
        assert glance(tensor, InlineExecutor()).result().summary.zeros == 4096 * 8192
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_more_files_are_mapped_than_a_part_of_those_that_may_be_open(tmp_path: Path) -> None:
    """A checkpoint may have a thousand, and a mapping holds a descriptor."""
    memory._mapped.clear()
    before, (soft, hard) = open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 24, hard))
        for number in range(60):
            file = tmp_path / str(number)
            file.write_bytes(bytes([number] * 4))
            found = memory.matrix(View(str(file), 0, (1, 4), (4, 1), "U8"))
            assert found.tolist() == [[number] * 4]
            assert open_files() <= before + (before + 24) // memory.MAPPED_SHARE + 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        memory._mapped.clear()


def test_others_are_unmapped_where_no_file_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory._mapped.clear()
    monkeypatch.setattr(memory, "most_mapped", lambda: 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(60):
        (tmp_path / str(number)).write_bytes(bytes([number] * 4))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 12, hard))
        found = [
            memory.matrix(View(str(tmp_path / str(number)), 0, (1, 1), (1, 1), "U8")).item()
            for number in range(60)
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        memory._mapped.clear()
    assert found == list(range(60))


def test_what_fits_into_no_memory_is_told(
    tmp_path: Path, refuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise MemoryError

    file = tmp_path / "file"
    file.write_bytes(bytes(16))
    refuse(errno.ENOMEM)
    monkeypatch.setattr(np, "empty", no_room)
    with pytest.raises(UnreadableFile, match=r"file: 16 bytes of it .*ulimit -v"):
        memory.matrix(View(str(file), 0, (4, 4), (4, 1), "U8"))
