"""What lies in `OUT.partial` is not trusted: its journal, its files, links that someone laid."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.conversion import run as engine
from ckptdiff.conversion.partial import folder as partial_folder
from ckptdiff.conversion.partial import journal as journals
from ckptdiff.conversion.plan import Target, plan_conversion
from ckptdiff.errors import BadArgument, CkptDiffError, UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import JOURNAL, open_checkpoint
from tests.support.conversions import converted, different, hf_tensors, torch_loads
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from ckptdiff.conversion.plan import Conversion

SHARD = 2000  # bytes of a file: the model has several


class Killed(BaseException):
    """Ends a run as a kill does: nothing is tidied up."""


def killed(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **target: Any) -> Path:
    """Convert without verifying until all files are complete, die there; return the partial."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(partial_folder.PartialFolder, "finish", die)
        patch.setattr(partial_folder.PartialFolder, "remove", lambda self: None)
        with pytest.raises(Killed):
            again(source, out, **target)
    return out.with_name(f"{out.name}.partial")


def again(source: Path, out: Path, **target: Any) -> tuple[Conversion, Any]:
    return converted(source, out, "hf", verify=False, max_shard_size=SHARD, **target)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_hf(tmp_path / "hf", layers=1, hidden=16, ffn=16, vocab=32)
    return tmp_path / "hf"


def lines_of(partial: Path) -> list[bytes]:
    return (partial / JOURNAL).read_bytes().splitlines(keepends=True)


def test_what_is_complete_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = killed(source, tmp_path / "out", monkeypatch)
    before = {path.name: path.stat().st_ino for path in (partial / "new").iterdir()}
    again(source, tmp_path / "out")
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == before
    assert len(before) > 4


DEEP = b"[" * 100_000
NOT_OURS = {
    "torn": b'["model-00001-of-0000',
    "NUL": b"\0" * 4096 + b"\n",
    "list": b"[]\n",
    "object": b'{"a": 1}\n',
    "null": b"null\n",
    "text": b'"model-00001-of-00005.safetensors"\n',
    "numbers": b"[1, 2, 3, 4, 5]\n",
    "truths": b'["a", true, true, true, []]\n',
    "losses": b'["a", 1, 1, 1, [["a", "b", 1, "x"]]]\n',
    "many losses": b'["a", 1, 1, 1, [["a", "b", 1, 1, 1, 1, 1, 1]]]\n',
    "deep": DEEP + b"\n",
    "deep and torn": DEEP,
    "long number": b'["a", ' + b"9" * 5000 + b", 1, 1, []]\n",
    "no UTF-8": b'["\xff\xfe", 1, 1, 1, []]\n',
    "a path out": b'["../../hf/config.json", 1, 1, 1, []]\n',
    "half a surrogate pair": b'["\\ud800", 1, 1, 1, []]\n',
    "end": b'"whole"\n',
    "end, and more": b'"whole"\n["a", 1, 1, 1, []]\n',
}


@pytest.mark.parametrize("bad", NOT_OURS)
@pytest.mark.parametrize("after", [0, 2])
def test_a_line_that_is_not_ours_ends_the_journal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, after: int
) -> None:
    partial = killed(source, tmp_path / "out", monkeypatch)
    plan, *lines = lines_of(partial)
    kept = [(partial / "new" / json.loads(line)[0]).stat().st_ino for line in lines[:after]]
    content = plan + b"".join(lines[:after]) + NOT_OURS[bad] + b"".join(lines[after:])
    (partial / JOURNAL).write_bytes(content)
    killed(source, tmp_path / "out", monkeypatch)  # which adds lines to those that count
    again(source, tmp_path / "out")
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []
    inodes = [path.stat().st_ino for path in (tmp_path / "out").iterdir()]
    assert set(kept) <= set(inodes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 999, b"[" * 9999, b"x" * 300, b"\xff\n"])
def test_a_journal_without_a_plan_begins_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    partial = killed(source, tmp_path / "out", monkeypatch)
    for file in (partial / "new").iterdir():
        file.write_bytes(b"wrong")
    (partial / JOURNAL).write_bytes(content)
    again(source, tmp_path / "out")
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []


def _other_bytes(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage", [lambda f: f.unlink(), lambda f: os.truncate(f, 10), _other_bytes]
)
def test_a_file_that_is_not_as_it_was_noted_is_written_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    partial = killed(source, tmp_path / "out", monkeypatch)
    damage(next((partial / "new").glob("model-00002*")))
    again(source, tmp_path / "out")  # which compares nothing
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []


def test_what_casts_lost_in_files_of_a_killed_run_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_hf(tmp_path / "hf", layers=1, hidden=16, ffn=16, vocab=32, dtype=torch.float32)
    weights["model.norm.weight"][:3] = 1e30  # infinite in float16
    (index,) = (tmp_path / "hf").glob("*.index.json")
    for file in (tmp_path / "hf").glob("*.safetensors"):
        file.unlink()
    index.unlink()
    save_file(weights, tmp_path / "hf/model.safetensors")
    how: dict[str, Any] = {"max_shard_size": SHARD, "dtype": "fp16"}
    _, wanted = converted(tmp_path / "hf", tmp_path / "whole", "hf", **how)
    killed(tmp_path / "hf", tmp_path / "out", monkeypatch, dtype="fp16")
    _, found = converted(tmp_path / "hf", tmp_path / "out", "hf", **how)
    assert found == wanted
    assert found["model.norm.weight"].loss.overflowed == 3


@pytest.mark.parametrize("laid", ["partial", "journal", "hard link", "new", "file", "folder"])
def test_no_link_is_followed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, laid: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "model-00001-of-00005.safetensors").write_bytes(b"mine")
    (precious / JOURNAL).write_bytes(b"")
    partial = killed(source, tmp_path / "out", monkeypatch)
    first = sorted((partial / "new").iterdir())[0]
    if laid == "partial":
        shutil.rmtree(partial)
        partial.symlink_to(precious)
    elif laid == "journal":
        (partial / JOURNAL).unlink()
        (partial / JOURNAL).symlink_to(precious / first.name)
    elif laid == "hard link":
        (partial / JOURNAL).unlink()
        os.link(precious / JOURNAL, partial / JOURNAL)
    elif laid == "new":
        shutil.rmtree(partial / "new")
        (partial / "new").symlink_to(precious)
    elif laid == "file":
        first.unlink()
        first.symlink_to(precious / first.name)
    else:
        (partial / "new" / "more").symlink_to(precious)
    if laid in ("partial", "journal", "hard link"):
        with pytest.raises(BadArgument, match=r"is a link|is in the way"):
            again(source, tmp_path / "out")
    else:
        again(source, tmp_path / "out")
        assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []
        assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert [path.read_bytes() for path in sorted(precious.iterdir())] == [b"", b"mine"]


def test_an_out_that_is_a_link_stays_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    for overwrite in (False, True):
        plan, _ = again(source, tmp_path / "out", overwrite=overwrite)
        assert any(f"is a link: {tmp_path}/disk/out is what is written" in n for n in plan.notes)
        assert (tmp_path / "out").is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []


def test_links_in_a_circle(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for out in (tmp_path / "a", tmp_path / "a" / "out"):
        with pytest.raises((BadArgument, UnreadableFile)):
            again(source, out)


def test_what_the_old_folder_links_to_is_not_deleted(source: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/mine").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "precious")
    again(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "precious/mine").read_text() == "x"
    assert not (tmp_path / "out/link").is_symlink()


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_old_folder_that_cannot_be_deleted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")

    def refuse(entry: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(entry))

    with monkeypatch.context() as patch:
        patch.setattr(partial_folder, "delete", refuse)
        if not exchanges:
            patch.setattr(partial_folder, "exchanged", lambda a, b: False)
        with pytest.raises(UnreadableFile, match="is complete and has its name, but what it was"):
            again(source, tmp_path / "out", overwrite=True)
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []
    assert (tmp_path / "out.partial" / ("new" if exchanges else "old") / "mine").exists()
    again(source, tmp_path / "out", overwrite=False)  # which has nothing left to write
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_a_folder_that_is_filled_meanwhile_is_not_touched(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begun = partial_folder.PartialFolder.finish

    def late(self: partial_folder.PartialFolder) -> None:
        out.mkdir()
        (out / "mine").write_text("x")
        begun(self)

    with monkeypatch.context() as patch:
        patch.setattr(partial_folder.PartialFolder, "finish", late)
        with pytest.raises(UnreadableFile, match="it is not empty any more") as refused:
            again(source, out)
    assert refused.value.hint == "overwrite"
    assert [path.name for path in out.iterdir()] == ["mine"]
    again(source, out, overwrite=True)
    assert different(hf_tensors(out), hf_tensors(source)) == []


def between(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a kill between two renames leaves, of a run over `out`."""
    with monkeypatch.context() as patch:
        patch.setattr(partial_folder, "exchanged", lambda a, b: False)
        moved = Path.rename

        def die(self: Path, target: Path) -> Path:
            if self.name == "new" and (self.parent / "old").exists():
                raise Killed
            return moved(self, target)

        patch.setattr(Path, "rename", die)
        patch.setattr(partial_folder.PartialFolder, "remove", lambda self: None)
        with pytest.raises(Killed):
            again(source, out, overwrite=True)
    # An exception is not a kill: it puts back what was there.
    out.rename(out.with_name("out.partial") / "old")


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_what_was_being_replaced_is_put_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, same: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    between(source, out, monkeypatch)
    assert not out.exists()
    how = {"overwrite": overwrite, **({} if same else {"dtype": "fp32"})}
    if not overwrite:
        with pytest.raises(BadArgument, match="is not empty"):
            again(source, out, **how)
        assert (out / "mine").read_text() == "x"
        return
    plan, _ = again(source, out, **how)
    assert any("gets its name again" in note for note in plan.notes)
    assert not (out / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_two_folders_that_both_claim_to_be_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    between(source, out, monkeypatch)
    out.mkdir()
    with pytest.raises(BadArgument, match="move one of them away"):
        again(source, out, overwrite=True)
    assert (tmp_path / "out.partial/old/mine").read_text() == "x"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    again(source, tmp_path / "out")
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []


def test_a_journal_that_cannot_be_written_keeps_what_is_complete(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = journals.PartialJournal.add

    def refuse(self: Any, file: Any) -> None:
        if len(self.files) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        noted(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(journals.PartialJournal, "add", refuse)
        with pytest.raises(UnreadableFile, match="No space left on device"):
            again(source, tmp_path / "out")
    assert len(lines_of(tmp_path / "out.partial")) == 3
    again(source, tmp_path / "out")
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(source)) == []


def test_closing_puts_nothing_away_that_is_not_ours(source: Path, tmp_path: Path) -> None:
    """The rest of the generator is not run: as ctrl+c at any event."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    target = Target("hf", overwrite=True)
    conversion = plan_conversion(assemble(open_checkpoint(source)), out, target)
    with closing(engine.convert(conversion, InlineExecutor())) as events:
        next(events)
    assert (out / "mine").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_a_name_that_no_file_can_hold(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    torch.save({"a": torch.ones(2), "b\ud800": torch.ones(2)}, tmp_path / "hf/pytorch_model.bin")
    assert list(torch_loads(tmp_path / "hf/pytorch_model.bin"))[1] == "b\ud800"
    with pytest.raises(CkptDiffError, match="surrogate"):
        converted(tmp_path / "hf", tmp_path / "out", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_all_is_on_the_disk_before_the_name_and_then_the_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill does not show it, a power cut does: what was synced last is what the journal says."""
    done: list[str] = []
    moved = Path.rename

    def sync(fd: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    def rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return moved(self, target)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    converted(source, tmp_path / "out", "megatron", verify=False)
    at = done.index("rename")
    new = f"{tmp_path}/out.partial/new"
    written = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")]
    assert {new, *(f"{new}/{path}" for path in written)} <= set(done[:at])
    assert done[at - 1] == f"{tmp_path}/out.partial/{JOURNAL}"
    assert done[at + 1] == str(tmp_path)
