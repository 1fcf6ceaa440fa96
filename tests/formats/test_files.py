"""Reading many files: in turn or several at a time, and the first one for a start."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from ckptdiff.formats import open_first
from ckptdiff.formats.files import FILES_IN_TURN, each_file
from ckptdiff.formats.hf import MANY_FILES
from tests.support.pairs import write_plain

PATHS = [Path(f"file-{number:02}") for number in range(40)]


def test_the_first_files_are_read_in_turn() -> None:
    threads = []

    def read(file: Path) -> str:
        threads.append(threading.get_ident())
        return file.name

    assert list(each_file(PATHS, read)) == [(path, path.name) for path in PATHS]
    # Then it may be others, if another program keeps this one waiting.
    assert set(threads[:FILES_IN_TURN]) == {threading.get_ident()}


def test_files_that_are_waited_for_are_read_several_at_a_time() -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def read(file: Path) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        return file.name

    counted: list[tuple[int, int]] = []
    read_files = list(each_file(PATHS, read, lambda done, total: counted.append((done, total))))
    assert read_files == [(path, path.name) for path in PATHS]
    assert counted == [(done, len(PATHS)) for done in range(1, len(PATHS) + 1)]
    assert most > 1


@pytest.mark.parametrize("at", [0, FILES_IN_TURN + 5])
def test_a_file_that_cannot_be_read_ends_the_reading(at: int) -> None:
    def read(file: Path) -> str:
        time.sleep(0.005)
        if file == PATHS[at]:
            raise ValueError(file.name)
        return file.name

    with pytest.raises(ValueError, match=PATHS[at].name):
        list(each_file(PATHS, read))


def many(folder: Path, count: int) -> Path:
    for number in range(count):
        one = write_plain(folder / f"{number}", {f"model.layers.{number}.x": torch.ones(4)})
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        (one / "model.safetensors").rename(folder / name)
    return folder


def test_the_first_of_many_files_is_a_checkpoint_by_itself(tmp_path: Path) -> None:
    folder = many(tmp_path, MANY_FILES)
    begun = open_first(folder)
    assert begun is not None
    assert list(begun.shards[0].tensors) == ["model.layers.0.x"]
    assert open_first(begun.files[0]) is None
    begun.files[0].write_bytes(b"nothing")
    assert open_first(folder) is None


def test_of_few_files_none_is_read_ahead(tmp_path: Path) -> None:
    assert open_first(many(tmp_path, 3)) is None
    assert open_first(tmp_path / "nowhere") is None
