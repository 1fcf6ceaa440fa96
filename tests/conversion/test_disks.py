"""Conversions where the system is short of something, or the source changes under them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.conversion import run as engine
from ckptdiff.conversion.plan import Target, plan_conversion
from ckptdiff.errors import CkptDiffError, MixedShards, UnreadableFile, Unverified, WorkerDied
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import JOURNAL, open_checkpoint
from tests.support.conversions import converted, different, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, group, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptdiff.conversion.plan import Conversion


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_hf(tmp_path / "hf", hidden=64, ffn=96, vocab=640)
    return tmp_path / "hf"


def planned(source: Path, out: Path, **target: Any) -> Conversion:
    return plan_conversion(assemble(open_checkpoint(source)), out, Target("hf", **target))


def mounted(folder: Path, options: str) -> None:
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in which a test mounts a disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def test_a_disk_that_fills_up_and_has_room_again(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(disk, "size=180k")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_check_space", lambda *_: None)  # another took the room
        with pytest.raises(UnreadableFile, match="No space left on device"):
            converted(source, disk / "out", "hf", max_shard_size=30_000)
    new = disk / "out.partial" / "new"
    complete = len((disk / "out.partial" / JOURNAL).read_bytes().splitlines()) - 1
    kept = {path.stat().st_ino for path in new.iterdir()}
    assert 0 < complete <= len(kept)
    mounted_again = ["mount", "-o", "remount,size=10m", str(disk)]
    subprocess.run(mounted_again, check=True, capture_output=True)
    converted(source, disk / "out", "hf", max_shard_size=30_000)
    assert different(hf_tensors(disk / "out"), hf_tensors(source)) == []
    assert len(kept & {path.stat().st_ino for path in (disk / "out").iterdir()}) >= complete
    assert [path.name for path in disk.iterdir()] == ["out"]


@pytest.mark.parametrize("is_asked", [True, False])
def test_inodes_that_run_out(
    source: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    mounted(disk, "size=10m,nr_inodes=8")
    if not is_asked:
        monkeypatch.setattr(engine, "_check_space", lambda *_: None)
    with pytest.raises(UnreadableFile, match="inodes") as refused:
        converted(source, disk / "out", "hf", max_shard_size=30_000)
    assert ("are to be written" in str(refused.value)) == is_asked
    assert [path.name for path in disk.iterdir()] == ([] if is_asked else ["out.partial"])


@pytest.mark.slow
def test_the_program_goes_on_where_a_limit_ended_it(source: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands in for a full disk, wherever none can be mounted."""
    command = [*PROGRAM, "convert", str(source), str(tmp_path / "out"), "--to", "hf"]
    command += ["--max-shard-size", "30kB", "--jobs", "1"]
    largest = 70_000  # bytes; the embedding has more
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("cannot be written (File too large)\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


@pytest.mark.slow
def test_a_run_that_is_stopped_and_continued(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*PROGRAM, "convert", str(source), str(out), "--to", "hf", "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(5):
        assert until(lambda: len(group(process.pid)) > 2 or process.poll() is not None)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGSTOP)
            os.killpg(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")
    assert different(hf_tensors(out), hf_tensors(source)) == []


def _written_anew(source: Path) -> None:
    """Save other tensors under the same names, laid out otherwise."""
    for file in source.iterdir():
        file.unlink()
    make_hf(source, hidden=64, ffn=96, vocab=640, seed=7, shards=3)


def test_a_source_that_is_saved_again_before_the_conversion_begins(
    source: Path, tmp_path: Path
) -> None:
    conversion = planned(source, tmp_path / "out")
    _written_anew(source)
    with pytest.raises(CkptDiffError, match=r"No such file|written again or replaced"):
        list(engine.convert(conversion, InlineExecutor()))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_source_with_the_same_files_that_was_laid_out_anew(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True)
    conversion = planned(tmp_path / "hf", tmp_path / "out")
    make_hf(tmp_path / "hf", single=True, vocab=62)
    with pytest.raises(MixedShards, match="written again or replaced"):
        list(engine.convert(conversion, InlineExecutor()))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("change", ["touched", "cut off", "gone"])
@pytest.mark.parametrize("ends_with", [Unverified("x"), WorkerDied("x"), UnreadableFile("x")])
def test_a_source_that_changes_while_it_is_compared(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, ends_with: Any
) -> None:
    """It is told as what it is, however the comparison ended of which it is the cause."""
    file = sorted(source.glob("*.safetensors"))[0]

    def compare(*_: object) -> Iterator[None]:
        yield
        if change == "gone":
            file.unlink()
        elif change == "cut off":
            os.truncate(file, 1000)
        else:
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        raise ends_with

    monkeypatch.setattr(engine, "compare_with_source", compare)
    with pytest.raises((MixedShards, UnreadableFile), match=file.name):
        list(engine.convert(planned(source, tmp_path / "out"), InlineExecutor()))
    assert not (tmp_path / "out").exists()
    assert change == "gone" or [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_finished_folder_that_is_not_what_the_source_holds_is_left_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run was killed before it had tidied up; what it wrote was changed by another since."""
    from ckptdiff.conversion.partial import folder as partial_folder

    with monkeypatch.context() as patch:
        patch.setattr(partial_folder.PartialFolder, "_clear", lambda self: None)
        converted(source, tmp_path / "out", "hf")
    file = next((tmp_path / "out").glob("*.safetensors"))
    status = file.stat()
    content = file.read_bytes()
    with file.open("r+b") as out:
        out.seek(len(content) - 1)
        out.write(bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # nobody sees it by the time
    with pytest.raises(Unverified, match="was written whole by a run that was killed"):
        converted(source, tmp_path / "out", "hf")
    assert file.exists()
    converted(source, tmp_path / "other", "hf")
