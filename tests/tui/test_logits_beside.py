"""A prompt beside other work: tensors being compared, another prompt, a broken tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.demo import make_demo
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.prompt import ids_text
from ckptdiff.tui.model.prompt_run import PromptRun
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.widgets.tap_map import TapMap
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.tokenizers_made import tokenizer_json
from tests.support.tui import logits_made as made
from tests.support.tui.harness import settle, tensors

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp
    from tests.support.tui.fakes import FakeEngine


pytestmark = pytest.mark.mostly_slow(one_in=4)


def screen(app: CkptDiffApp) -> LogitsScreen:
    assert isinstance(app.screen, LogitsScreen)
    return app.screen


async def until_held_up(app: CkptDiffApp, pilot: Pilot[None], rows: int) -> None:
    """Wait until so many rows of taps are shown while the rest is held up."""
    while len(screen(app).query_one(TapMap).grid.rows) < rows:
        await pilot.pause(0.02)


async def test_a_prompt_is_answered_while_tensors_are_being_compared(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.hold = made.steps(made.faulty()), 4
    async with app.run_test(size=(80, 24)) as pilot:
        while tensors(app).session.compared < 4:
            await pilot.pause(0.02)
        await pilot.press("p", "a", "enter")
        while screen(app).diff is None:
            await pilot.pause(0.02)
        assert tensors(app).session.is_busy
        engine.gate.set()
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"


async def test_stopping_a_prompt_leaves_the_comparison_of_tensors_alone(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.hold, engine.hold_logits = made.steps(made.faulty()), 4, 2
    async with app.run_test(size=(80, 24)) as pilot:
        while tensors(app).session.compared < 4:
            await pilot.pause(0.02)
        await pilot.press("p", "a", "enter")
        await until_held_up(app, pilot, 2)
        await pilot.press("x")
        run = tensors(app).prompts.run
        assert run is not None
        assert run.state == "stopped"
        assert tensors(app).session.is_busy
        engine.gate.set()
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"


async def test_another_prompt_takes_the_place_of_one_that_runs(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.hold_logits = made.steps(made.faulty()), 2
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("p", "a", "enter")
        await until_held_up(app, pilot, 2)
        clean = made.clean()
        engine.steps, engine.hold_logits = made.steps(clean), None
        await pilot.press("p", "b", "enter")
        engine.gate.set()
        await settle(app, pilot)
        assert [text for text, _ in engine.prompts] == ["a", "ab"]
        diff = screen(app).diff
        assert diff is not None
        assert diff.verdict == "arithmetic"
        assert len(screen(app).query_one(TapMap).grid.rows) == 5


@pytest.mark.parametrize("broken", [False, True], ids=["no tokenizer", "a broken one"])
def test_ids_are_taken_where_no_tokenizer_works_and_text_is_refused(
    tmp_path: Path, *, broken: bool
) -> None:
    paths = make_demo(tmp_path / "demo")
    if broken:
        (paths[0] / "tokenizer.json").write_text("no json")
    a, b = assemble_pair(*map(open_checkpoint, paths))
    engine = LocalEngine()
    prompt = engine.read_prompt("7, 8,9", a, b, InlineExecutor())
    assert (prompt.ids, prompt.texts) == ((7, 8, 9), ())
    stated = engine.read_prompt("ids:7,8,9", a, b, InlineExecutor())
    assert stated.ids == (7, 8, 9)
    with pytest.raises(CkptDiffError) as refused:
        engine.read_prompt("The capital", a, b, InlineExecutor())
    assert refused.value.hint == "ids"
    assert "as 1,2,3" in refused.value.with_hint(KEYS)
    assert "--ids" not in refused.value.with_hint(KEYS)


def test_stated_ids_are_never_read_as_words(tmp_path: Path) -> None:
    paths = make_demo(tmp_path / "demo")
    (paths[0] / "tokenizer.json").write_text(tokenizer_json())
    a, b = assemble_pair(*map(open_checkpoint, paths))
    engine = LocalEngine()
    assert engine.read_prompt(ids_text((7, 8, 9)), a, b, InlineExecutor()).ids == (7, 8, 9)
    assert engine.read_prompt("7,8,9", a, b, InlineExecutor()).ids != (7, 8, 9)
    words = engine.read_prompt("ids:seven", a, b, InlineExecutor())
    assert "".join(words.texts).endswith("ids:seven")
    run = PromptRun(1, "ids: 7, 8", attribute=False, clock=lambda: 0.0)
    assert run.command_line(paths).endswith("--ids 7,8")
