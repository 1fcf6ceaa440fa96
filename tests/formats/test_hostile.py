"""Every hostile file brings an error that names it, soon, in little memory, and runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors as library

from ckptdiff.errors import CorruptFile
from ckptdiff.formats import open_checkpoint
from ckptdiff.formats.safetensors import read_header
from tests.support.hostile import GOOD as GOOD_HEADER
from tests.support.hostile import INDICES, SAFETENSORS, STRICTER, Hostile, single_safetensors
from tests.support.hostile import safetensors as safetensors_file
from tests.support.hostile_system import SYSTEM
from tests.support.hostile_torch import TORCH
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mostly_slow(one_in=4)
MEMORY = 300 << 20  # bytes that opening a hostile file may take
SECONDS = 5.0  # of the processor

# A process of its own, so that a crash or a hang is one test's.
PROBE = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
import json, os
from pathlib import Path
from ckptdiff import formats
from ckptdiff.errors import CkptDiffError
if user := int(sys.argv[2]):
    os.setresuid(user, user, user)
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before, start = used(), time.process_time()
try:
    formats.open_checkpoint(Path(sys.argv[1]))
    error = message = ""
except CkptDiffError as trouble:
    error, message = type(trouble).__name__, str(trouble)
print(json.dumps([error, message, used() - before, time.process_time() - start]))
"""


@dataclass(frozen=True)
class Outcome:
    error: str
    message: str
    memory: int
    seconds: float


def probe(path: Path, *, user: int = 0) -> Outcome:
    """Open `path` in a process of its own."""
    limit = str(int(6 * SECONDS))  # the start and what comes after it, of the processor as well
    command = [sys.executable, "-c", PROBE, os.fspath(path), str(user), limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:] or f"died of signal {-done.returncode}"
    return Outcome(*json.loads(done.stdout))


ALL = [
    *(Hostile(name, single_safetensors(content)) for name, content in SAFETENSORS.items()),
    *INDICES,
    *TORCH,
    *SYSTEM,
]


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.parametrize("hostile", ALL, ids=[hostile.name for hostile in ALL])
def test_it_brings_an_error_soon_and_in_little_memory(hostile: Hostile, tmp_path: Path) -> None:
    path = hostile.make(tmp_path)
    outcome = probe(path)
    assert outcome.error in hostile.errors, outcome.message
    assert str(tmp_path) in outcome.message or not outcome.error
    assert len(outcome.message) < 1000 + len(str(path))
    assert outcome.seconds < SECONDS
    assert outcome.memory < MEMORY


def test_names_of_the_cases_are_unique() -> None:
    assert len({hostile.name for hostile in ALL}) == len(ALL)


@pytest.mark.parametrize("name", sorted(SAFETENSORS.keys() - STRICTER))
def test_the_safetensors_library_refuses_it_too(name: str) -> None:
    with pytest.raises(library.SafetensorError):
        library.deserialize(SAFETENSORS[name])  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "content",
    [
        GOOD_HEADER,
        b"{}",
        GOOD_HEADER + b"   \n",
        GOOD_HEADER.replace(b'"dtype"', b'"spare":[1,{"x":null}],"dtype"'),
        GOOD_HEADER.replace(b'"a"', b'""'),
        GOOD_HEADER.replace(b'"a"', b'"\\u0000"'),
        GOOD_HEADER.replace(b'"a"', "é漢".encode().join([b'"', b'"'])),
        GOOD_HEADER.replace(b'{"a"', b'{"__metadata__":{"format":"pt"},"a"'),
        GOOD_HEADER.replace(b'{"a"', b'{"b":{"dtype":"U8","shape":[0,7],"data_offsets":[0,0]},"a"'),
        b'{"b":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}',
        GOOD_HEADER.replace(b"[2]", b"[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]"),
    ],
)
def test_what_the_safetensors_library_reads_is_read(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_file(content, bytes(8) if len(content) > 2 else b""))
    theirs = library.deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    expected = {name: tuple(x["shape"]) for name, x in theirs}
    assert {name: ref.shape for name, ref in read_header(file).items()} == expected


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user may enter, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:"
            + b"4d7a" * 16
            + b"\nsize 9976578928\n",
            "git lfs pull",
        ),
    ],
    ids=["empty", "pointer"],
)
def test_a_file_whose_content_never_came_says_what_to_do(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=said) as raised:
        open_checkpoint(tmp_path)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_a_file_that_may_not_be_read_brings_an_error(open_folder: Path, name: str) -> None:
    (open_folder / "model.safetensors").write_bytes(safetensors_file(GOOD_HEADER))
    (open_folder / name).touch()
    (open_folder / name).chmod(0)
    if name == "pytorch_model.bin":
        (open_folder / "model.safetensors").unlink()
    outcome = probe(open_folder, user=0 if os.getuid() else 65534)
    assert outcome.error == "UnreadableFile"
    assert str(open_folder / name) in outcome.message
    assert "ermission" in outcome.message


def test_a_folder_that_may_not_be_entered_brings_an_error(open_folder: Path) -> None:
    inner = open_folder / "inner"
    inner.mkdir()
    (inner / "model.safetensors").write_bytes(safetensors_file(GOOD_HEADER))
    inner.chmod(0)
    for path in (inner, inner / "model.safetensors"):
        outcome = probe(path, user=0 if os.getuid() else 65534)
        assert outcome.error == "UnreadableFile"
        assert str(inner) in outcome.message
    inner.chmod(0o755)


def test_a_link_into_the_blobs_of_the_hub_is_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0af1").write_bytes(safetensors_file(GOOD_HEADER))
    (snapshot / "model.safetensors").symlink_to("../../blobs/0af1")
    index = snapshot / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert list(open_checkpoint(snapshot).shards[0].tensors) == ["a"]


@pytest.mark.slow
def test_ten_times_the_tensors_in_a_header_take_no_hundred_times_as_long(tmp_path: Path) -> None:
    """What looks at every pair of tensors would take an hour for a header of 100 MB."""

    def seconds(count: int) -> float:
        entries = ",".join(
            f'"{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{n},{n + 1}]}}' for n in range(count)
        )
        file = tmp_path / f"{count}.safetensors"
        file.write_bytes(safetensors_file(f"{{{entries}}}".encode(), bytes(count)))
        start = time.process_time()
        assert len(read_header(file)) == count
        return time.process_time() - start

    few = max(seconds(10**4) for _ in range(3))
    assert seconds(10**5) < 40 * few
