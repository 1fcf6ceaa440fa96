"""Results of an earlier run are shown at once, and never when anything has changed since."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptdiff.comparison.pipeline import CheckpointPair
from ckptdiff.result_cache import PAIRS, ResultCache
from tests.support.tui.fakes import (
    A,
    B,
    Clock,
    FakeEngine,
    assembled,
    checkpoint,
    layer,
    names,
    result,
)
from tests.support.tui.harness import NOW, settle, tensors, text, until_compared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.tui.app import CkptDiffApp

Q0 = layer(0, "self_attn.q_proj.weight")


pytestmark = pytest.mark.mostly_slow(one_in=4)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    """Two checkpoints whose files exist, as a history wants them."""
    found = []
    for letter in "ab":
        root = tmp_path / letter
        root.mkdir()
        file = root / "model.safetensors"
        file.write_bytes(b"x" * 100)
        found.append(replace(checkpoint(root, names()), files=(file,)))
    return found[0], found[1]


def keep(
    folder: Path, sides: tuple[Checkpoint, Checkpoint], tolerance: str = "cast"
) -> ResultCache:
    history = ResultCache(folder, *sides, tolerance)
    with history:
        history.add(result(Q0, "differ"), NOW - 7200)
        history.add(result("lm_head.weight"), NOW - 7100)
    return history


def test_results_come_back_as_they_were(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    keep(tmp_path / "kept", sides)
    found = list(ResultCache(tmp_path / "kept", *sides, "cast").load())
    assert found == [(result(Q0, "differ"), NOW - 7200), (result("lm_head.weight"), NOW - 7100)]


def test_nothing_comes_back_under_another_tolerance(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    keep(tmp_path / "kept", sides)
    assert list(ResultCache(tmp_path / "kept", *sides, "exact").load()) == []


@pytest.mark.parametrize("change", ["size", "time", "config", "file"])
def test_nothing_comes_back_once_anything_has_changed(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint], change: str
) -> None:
    keep(tmp_path / "kept", sides)
    a, b = sides
    (file,) = b.files
    if change == "size":
        stat = file.stat()
        file.write_bytes(b"x" * 101)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "config":
        b = replace(b, config={"num_attention_heads": 4})
    else:
        (file.parent / "more.safetensors").write_bytes(b"")
        b = replace(b, files=(file, file.parent / "more.safetensors"))
    changed = ResultCache(tmp_path / "kept", a, b, "cast")
    assert list(changed.load()) == []
    with changed:
        changed.add(result("lm_head.weight", "close"), NOW)
    assert [found for found, _ in changed.load()] == [result("lm_head.weight", "close")]


def test_an_older_run_cannot_write_into_a_newer_ones_results(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    older = ResultCache(tmp_path / "kept", *sides, "cast")
    with older:
        os.utime(sides[0].files[0], ns=(5, 5))
        newer = ResultCache(tmp_path / "kept", *sides, "cast")
        with newer:
            newer.add(result(Q0, "differ"), NOW)
            older.add(result("lm_head.weight"), NOW)
    assert [found.name for found, _ in newer.load()] == [Q0]


def test_a_torn_line_is_skipped_and_the_next_one_is_whole(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    history = keep(tmp_path / "kept", sides)
    history.file.write_bytes(history.file.read_bytes()[:-40])
    with history:
        history.add(result("model.embed_tokens.weight"), NOW)
    assert [found.name for found, _ in history.load()] == [Q0, "model.embed_tokens.weight"]


def test_errors_are_not_kept(tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]) -> None:
    history = ResultCache(tmp_path / "kept", *sides, "cast")
    with history:
        history.add(result(Q0, "error"), NOW)
    assert list(history.load()) == []


def test_a_folder_that_cannot_be_written_costs_the_history_only(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    history = keep(tmp_path / "kept", sides)
    assert list(history.load()) == []


def test_the_pairs_unused_for_longest_are_dropped(
    tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    for number in range(PAIRS + 5):
        file = folder / f"{number}.jsonl"
        file.touch()
        os.utime(file, (number, number))
    keep(folder, sides)
    left = sorted(int(file.stem) for file in folder.glob("*.jsonl") if file.stem.isdigit())
    assert left == list(range(5, PAIRS + 5))


class KeptEngine(FakeEngine):
    """Opens checkpoints whose files exist."""

    def __init__(self, sides: tuple[Checkpoint, Checkpoint]) -> None:
        super().__init__({Q0: result(Q0, "differ")})
        self.sides = dict(zip((A, B), sides, strict=True))

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
        return self.sides[path]

    def pair(self, a: Assembled, b: Checkpoint, *_: object, **__: object):  # type: ignore[no-untyped-def]
        yield CheckpointPair(a, assembled(b), tuple(names()))


@pytest.mark.slow
async def test_a_stopped_comparison_goes_on_where_it_was(
    make_app: Callable[..., CkptDiffApp], tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    engine = KeptEngine(sides)
    engine.hold = 5
    app = make_app(A, B, engine=engine, history=tmp_path / "kept")
    async with app.run_test(size=(80, 24)) as pilot:
        await until_compared(app, pilot, 5)
        await pilot.press("x")
        engine.hold = None
        engine.gate.set()
        await settle(app, pilot)
        await pilot.press("r")
        await settle(app, pilot)
        assert [len(asked) for asked in engine.asked] == [14, 9]
        assert tensors(app).session.phase == "done"


async def test_reopening_shows_what_was_compared_and_when(
    make_app: Callable[..., CkptDiffApp], tmp_path: Path, sides: tuple[Checkpoint, Checkpoint]
) -> None:
    engine = KeptEngine(sides)
    kept = tmp_path / "kept"
    app = make_app(A, B, engine=engine, history=kept)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
    for file in kept.iterdir():  # as if all of that had been two hours ago
        file.write_text(_two_hours_older(file.read_text()))
    again = make_app(A, B, engine=engine, history=kept, now=Clock(NOW))
    async with again.run_test(size=(80, 24)) as pilot:
        await settle(again, pilot)
        assert len(engine.asked) == 1
        line = text(again, "ProgressLine")
        assert line == "! 1 of 14 tensors differs. Compared 2 h ago; r compares again."
        await pilot.press("r")
        await settle(again, pilot)
        assert [len(asked) for asked in engine.asked] == [14, 14]
        assert "Compared every byte in" in text(again, "ProgressLine")


def _two_hours_older(kept: str) -> str:
    import json

    head, *lines = kept.splitlines()
    entries = [json.loads(line) for line in lines]
    return "\n".join([head, *(json.dumps({**entry, "at": NOW - 7200}) for entry in entries), ""])
