"""A kill at any step leaves the old folder or the whole new one, and the next run ends the work."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.formats import JOURNAL, open_checkpoint
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.kills import KilledConversions
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    Weights = dict[str, Tensor]

NEVER = 1 << 30  # a step that no conversion has
LAST_STEPS = 12  # of which each is tried: from the last file on


@pytest.fixture(scope="module")
def kills() -> Iterator[KilledConversions]:
    with KilledConversions() as server:
        yield server


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two small models: `hf`, and `old` of the same shapes."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("hf", "old")):
        make_hf(root / name, layers=1, hidden=16, ffn=16, vocab=32, seed=seed)
    return root


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only the power's failing would show, and what takes long on a busy disk."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def held(out: Path, models: Path) -> str:
    """Return whose tensors a folder holds, as the safetensors library reads them."""
    found = hf_tensors(out)
    whose = [name for name in ("hf", "old") if not different(found, hf_tensors(models / name))]
    return whose[0] if whose else "half"


def opens(folder: Path) -> bool:
    try:
        open_checkpoint(folder)
    except CkptDiffError:
        return False
    return True


def test_the_server_counts_steps(kills: KilledConversions, models: Path, tmp_path: Path) -> None:
    assert not kills.kill_at(NEVER, models / "hf", tmp_path / "a", to="hf")
    steps = kills.steps
    assert steps > 15
    assert kills.kill_at(steps, models / "hf", tmp_path / "b", to="hf")
    assert not kills.kill_at(steps + 1, models / "hf", tmp_path / "c", to="hf")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["new", "over", "over in two steps"])
def test_a_kill_at_any_step_leaves_the_old_or_the_whole_new_folder(
    kills: KilledConversions, models: Path, tmp_path: Path, way: str
) -> None:
    overwrite = way != "new"
    target = {"to": "hf", "max_shard_size": 2000, "overwrite": overwrite}
    how = {**target, "exchanges": way != "over in two steps"}
    source = models / "hf"

    def killed(step: int) -> tuple[Path, bool]:
        out = tmp_path / str(step) / "out"
        out.parent.mkdir()
        if overwrite:
            shutil.copytree(models / "old", out)
        return out, kills.kill_at(step, source, out, **how)

    assert not killed(NEVER)[1]
    steps = kills.steps
    found = set()
    for step in (*range(1, steps - LAST_STEPS, 9), *range(steps - LAST_STEPS, steps + 1)):
        out, was_killed = killed(step)
        assert was_killed
        partial = out.with_name("out.partial")
        for folder in (partial, partial / "new", partial / "old"):
            assert not opens(folder), (step, folder)
        is_between = (partial / "old").exists() and not out.exists()
        if out.exists():
            assert held(out, models) != "half", step
            found.add(held(out, models))
            assert opens(out), step
        elif overwrite:
            assert is_between, step
            found.add("between")
        is_tidied = out.exists() and held(out, models) == "hf" and not (partial / JOURNAL).exists()
        if is_tidied and not overwrite:
            with pytest.raises(BadArgument, match="is not empty"):  # as behind a whole run
                converted(source, out, "hf", max_shard_size=2000)
            continue
        converted(source, out, "hf", max_shard_size=2000, overwrite=overwrite)
        assert held(out, models) == "hf", step
        assert [path.name for path in out.parent.iterdir()] == ["out"], step
    assert found == {"hf", *(["old"] if overwrite else [])} | (
        {"between"} if way == "over in two steps" else set()
    )


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(
    kills: KilledConversions, models: Path, tmp_path: Path
) -> None:
    source, out = models / "hf", tmp_path / "out"
    journal = tmp_path / "out.partial" / JOURNAL
    how = {"to": "hf", "max_shard_size": 2000, "verify": False}
    assert not kills.kill_at(NEVER, source, tmp_path / "whole", **how)
    shutil.rmtree(tmp_path / "whole")
    steps = kills.steps * 2 // 3
    runs = 0
    while kills.kill_at(steps, source, out, **how):
        runs += 1
        if journal.exists():
            with journal.open("ab") as lines:
                lines.write(b'["model-0000')  # it was killed while it wrote a line
        assert runs < 40
    assert runs > 1
    assert held(out, models) == "hf"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_ranks_in_folders_of_their_own(
    kills: KilledConversions, models: Path, tmp_path: Path
) -> None:
    source = models / "hf"
    converted(source, tmp_path / "whole", "megatron")
    assert not kills.kill_at(NEVER, source, tmp_path / "out", to="megatron")
    steps = kills.steps
    for step in range(steps // 2, steps, 3):
        out = tmp_path / str(step) / "out"
        assert kills.kill_at(step, source, out, to="megatron")
        assert not opens(out.with_name("out.partial") / "new" / "iter_0000001")
        if not out.exists():
            converted(source, out, "megatron")
        assert not different(rank_tensors(out), rank_tensors(tmp_path / "whole"))
        assert compare(source, out).summary.verdict == "same"
