"""Whatever happens, a folder that looks like a checkpoint is one, and no source is touched."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Parallelism
from ckptdiff.conversion import run as engine
from ckptdiff.conversion import verify as verification
from ckptdiff.conversion.plan import Conversion, Target, plan_conversion
from ckptdiff.errors import BadArgument, CkptDiffError, NotACheckpoint, Unverified
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import JOURNAL, open_checkpoint
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, ckptdiff, group, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that takes a moment to write: 90 MB."""
    folder = tmp_path_factory.mktemp("large") / "hf"
    make_hf(folder, layers=12, hidden=512, heads=8, groups=8, head_dim=64, ffn=1408, vocab=8000)
    return folder


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def planned(source: Path, out: Path, tp: int = 2, *, overwrite: bool = False) -> Conversion:
    target = Target("megatron", Parallelism(tp=tp, etp=tp), overwrite=overwrite)
    return plan_conversion(assemble(open_checkpoint(source)), out, target)


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "convert", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def complete_files(out: Path) -> int:
    journal = out.with_name(f"{out.name}.partial") / JOURNAL
    return len(journal.read_text().splitlines()) - 1 if journal.exists() else -1


@pytest.mark.slow
@pytest.mark.parametrize("after", [-1, 0, 1, 3, 7])
def test_what_a_kill_leaves_is_no_checkpoint_and_the_next_run_goes_on(
    large: Path, tmp_path: Path, after: int
) -> None:
    before = fingerprint(large)
    out = tmp_path / "out"
    command = (large, out, "--to", "megatron", "--tp", 8)
    process = started(*command)
    assert until(lambda: complete_files(out) >= after)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert until(lambda: group(process.pid) == [])
    partial = tmp_path / "out.partial"
    kept = {}
    if not out.exists():  # else it was quicker than the kill
        for path in (out, partial, partial / "new", partial / "new/iter_0000001"):
            with pytest.raises(NotACheckpoint):
                open_checkpoint(path)
        if partial.exists():
            names = [json.loads(n)[0] for n in (partial / JOURNAL).read_text().splitlines()[1:]]
            kept = {name: (partial / "new" / name).stat().st_mtime_ns for name in names}
    done = ckptdiff(*("convert", *command), *(["--overwrite"] if out.exists() else []))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert len(kept) >= min(after, 0)
    for name, time in kept.items():
        assert (out / name).stat().st_mtime_ns == time
    comparison = compare(large, out)
    assert comparison.summary.verdict == "same"
    assert fingerprint(large) == before


@pytest.mark.slow
def test_another_plan_starts_clean(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(large, out, "--to", "megatron", "--tp", 8)
    assert until(lambda: complete_files(out) >= 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert until(lambda: group(process.pid) == [])
    if out.exists():
        shutil.rmtree(out)
    assert ckptdiff("convert", large, out, "--to", "megatron", "--tp", 2).returncode == 0
    assert len(list(out.rglob("*.pt"))) == 2
    assert compare(large, out).summary.verdict == "same"


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(large: Path, tmp_path: Path) -> None:
    process = started(large, tmp_path / "out", "--to", "megatron", "--tp", 8)
    assert until(lambda: complete_files(tmp_path / "out") >= 0)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode != 0:
        assert (process.returncode, said) == (130, "ckptdiff: stopped\n")
        assert list(tmp_path.iterdir()) == []


def test_closing_the_generator_leaves_nothing(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    conversion = planned(tmp_path / "hf", tmp_path / "out")
    for steps in range(1, 40):
        with closing(engine.convert(conversion, InlineExecutor())) as events:
            for _ in zip(range(steps), events, strict=False):
                pass
        if (tmp_path / "out").exists():
            break
        assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    else:
        pytest.fail("it never came to its end")
    assert steps > 5


@pytest.mark.slow
def test_a_full_disk_is_said_and_old_work_stays(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(large, out)
    before = fingerprint(out)
    command = [*PROGRAM, "convert", str(large), str(out), "--to", "megatron", "--overwrite"]
    limit = 10_000_000
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"ckptdiff: {tmp_path}/out.partial/new/iter_0000001/mp_rank_00/")
    assert done.stderr.endswith("cannot be written (File too large)\n")
    assert fingerprint(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 50 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=50m", "tmpfs", str(folder)]
    if (
        mount is None
        or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_room_is_asked_for_before_anything_is_written(large: Path, small_disk: Path) -> None:
    done = ckptdiff("convert", large, small_disk / "out", "--to", "megatron", "--tp", 8)
    assert done.returncode == 2
    assert "are needed, the disk has 5" in done.stderr
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_complete_files_to_go_on_from(
    large: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever asked for room was told of some that another then took.
    monkeypatch.setattr(engine, "_check_space", lambda *_: None)
    with pytest.raises(CkptDiffError, match="No space left on device"):
        list(engine.convert(planned(large, small_disk / "out", 8), InlineExecutor()))
    assert [path.name for path in small_disk.iterdir()] == ["out.partial"]
    with pytest.raises(NotACheckpoint, match="has not finished"):
        open_checkpoint(small_disk / "out.partial")


def test_another_disk_than_the_sources(tmp_path: Path, small_disk: Path) -> None:
    weights = make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", small_disk / "out", "hf")
    assert different(hf_tensors(small_disk / "out"), weights) == []


def test_a_source_that_changes_meanwhile(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True)
    events = engine.convert(planned(tmp_path / "hf", tmp_path / "out"), InlineExecutor())
    next(events)
    file = tmp_path / "hf/model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"\x01\x02")
    with pytest.raises(CkptDiffError, match=r"model\.safetensors: changed while it was read"):
        list(events)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.slow
def test_a_source_that_is_cut_off_meanwhile(large: Path, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    shutil.copytree(large, source)
    process = started(source, tmp_path / "out", "--to", "megatron", "--tp", 8)
    assert until(lambda: (tmp_path / "out.partial").exists())
    for file in source.glob("*.safetensors"):
        os.truncate(file, 5000)
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode == 0:
        pytest.skip("it was quicker")
    assert process.returncode == 2
    assert said.startswith("ckptdiff: ")
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_source_with_a_missing_shard(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", shards=3)
    next((tmp_path / "hf").glob("model-00002-*")).unlink()
    done = ckptdiff("convert", tmp_path / "hf", tmp_path / "out", "--to", "megatron")
    assert done.returncode == 2
    assert "1 of 4 files is missing" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_what_was_damaged_on_the_disk_never_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hf(tmp_path / "hf", vocab=64)
    conversion = planned(tmp_path / "hf", tmp_path / "out")
    compared = verification.compare_with_source

    def damage(plan: Conversion, folder: Path, *rest: object) -> object:
        file = folder / plan.files[1].path
        content = bytearray(file.read_bytes())
        content[plan.files[1].layout.slots[3].offset] ^= 1
        file.write_bytes(content)
        return compared(plan, folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "compare_with_source", damage)
    with pytest.raises(Unverified, match=r"o_proj\.weight differs"):
        list(engine.convert(conversion, InlineExecutor()))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_two_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    conversion = planned(tmp_path / "hf", tmp_path / "out")
    with closing(engine.convert(conversion, InlineExecutor())) as first:
        next(first)
        with pytest.raises(BadArgument, match="another conversion is writing"):
            next(engine.convert(conversion, InlineExecutor()))
        list(first)
    assert compare(tmp_path / "hf", tmp_path / "out").summary.weights == "same"


def test_a_folder_that_is_in_the_way_stays_as_it_is(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/mine").write_text("x")
    with pytest.raises(BadArgument, match=r"out\.partial: is in the way"):
        converted(tmp_path / "hf", tmp_path / "out", "hf")
    assert (tmp_path / "out.partial/mine").read_text() == "x"


def test_a_target_that_is_not_empty(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("x")
    with pytest.raises(BadArgument, match="is not empty") as refused:
        converted(tmp_path / "hf", tmp_path / "out", "megatron")
    assert refused.value.hint == "overwrite"
    converted(tmp_path / "hf", tmp_path / "out", "megatron", overwrite=True)
    assert rank_tensors(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
    assert not (tmp_path / "out/old").exists()


@pytest.mark.parametrize("out", ["hf", "hf/inside", ".", "link"])
def test_the_source_is_never_the_target(tmp_path: Path, out: str) -> None:
    make_hf(tmp_path / "hf")
    (tmp_path / "link").symlink_to(tmp_path / "hf")
    before = fingerprint(tmp_path / "hf")
    for overwrite in (False, True):
        with pytest.raises(BadArgument, match="in the source"):
            converted(tmp_path / "hf", tmp_path / out, "megatron", overwrite=overwrite)
    assert fingerprint(tmp_path / "hf") == before


def test_names_from_a_file_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    save_file({"../../escape": torch.ones(2)}, tmp_path / "hf/model.safetensors")
    converted(tmp_path / "hf", tmp_path / "out", "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
