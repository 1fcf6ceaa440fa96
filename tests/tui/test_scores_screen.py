"""The screen of scores: tasks are typed, the table fills, items open, and from there the logits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import BadArgument, UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.result_cache import history_folder
from ckptdiff.scores.journal import journal_folder
from ckptdiff.scores.results import ScoreProgress
from ckptdiff.tui.commands import Commands
from ckptdiff.tui.model.score_run import ScoreRequest, ScoreResult, ScoreRun
from ckptdiff.tui.model.session import Session
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.guide import GuideScreen
from ckptdiff.tui.screens.help import help_lines
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.score_item import ScoreItemScreen
from ckptdiff.tui.screens.scores import ScoresScreen
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.text.scores import outcome_lines, progress_words
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.score_lists import AnswerList, ItemList, ScoreTable
from ckptdiff.tui.widgets.task_input import TaskInput
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.tui import logits_made
from tests.support.tui import scores_made as made
from tests.support.tui.fakes import A, B, FakeEngine
from tests.support.tui.harness import lines, settle, tensors, text, toasts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]

pytestmark = pytest.mark.mostly_slow(one_in=8)
NARROW, WIDE = (80, 24), (120, 40)
SIZES = (NARROW, WIDE, (40, 10), (200, 50))
LETTERS = {" ": "space", ",": "comma", "_": "underscore", ".": "full_stop", "/": "slash"}


async def type_in(pilot: Pilot[None], words: str) -> None:
    await pilot.press(*(LETTERS.get(letter, letter) for letter in words))


async def ask(app: CkptDiffApp, pilot: Pilot[None], words: str = "boolq,hellaswag") -> None:
    """Open the screen and run these tasks, once everything else is done."""
    await settle(app, pilot)
    await pilot.press("5")
    await pilot.pause()
    await type_in(pilot, words)
    await pilot.press("enter")
    await settle(app, pilot)


async def until_held_up(app: CkptDiffApp, pilot: Pilot[None], batch: int) -> None:
    """Wait until a batch is being computed while the rest is held up."""
    while True:
        run = tensors(app).scores.run
        if run is not None and run.progress is not None and run.progress.batch == batch:
            break
        await pilot.pause(0.02)
    await pilot.pause()


def table(app: CkptDiffApp) -> list[str]:
    return [each for each in lines(app.screen.query_one(ScoreTable)) if each]


def items(app: CkptDiffApp) -> list[str]:
    return [each for each in lines(app.screen.query_one(ItemList)) if each]


def outcome(app: CkptDiffApp) -> str:
    return text(app, "#outcome")


def screen(app: CkptDiffApp) -> ScoresScreen:
    assert isinstance(app.screen, ScoresScreen)
    return app.screen


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


async def test_without_the_harness_it_says_what_to_install(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    app = make_app(A, B)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await settle(app, pilot)
        await pilot.press("5")
        await settle(app, pilot)
        assert isinstance(app.screen, TensorsScreen)
        (said,) = toasts(app)
        assert said.startswith("Comparing scores needs lm-eval")
        assert said.endswith("pip install 'ckptdiff[scores]'")


async def test_without_tasks_the_screen_says_what_to_do(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5")
        await pilot.pause()
        assert "names of tasks of lm-evaluation-harness" in text(app, "#nothing")
        assert "FILE.yaml" in app.screen.query_one("#tasks", TaskInput).placeholder
        assert not app.screen.query_one(ScoreTable).display or not table(app)
        await pilot.press("enter")
        await settle(app, pilot)
        assert engine.scored == []
        assert isinstance(app.focused, TaskInput)
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is tensors(app)


async def test_one_checkpoint_has_no_scores_to_compare(make_app: Make) -> None:
    app = make_app(A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5")
        await settle(app, pilot)
        assert isinstance(app.screen, TensorsScreen)
        assert toasts(app)[-1].startswith("Scores: this is one checkpoint.")


async def test_tasks_limit_dtype_and_device_reach_the_engine(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.score_steps, engine.devices = made.steps(made.clean()), ("cuda:0",)
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot, "boolq, x.yaml")
        assert engine.scored == [ScoreRequest("boolq, x.yaml")]
        await pilot.press("t", "tab")
        await type_in(pilot, "2a5")  # a letter is no limit
        await pilot.press("escape", "d", "d", "D", "D", "r")
        await settle(app, pilot)
        assert engine.scored[1] == ScoreRequest("boolq, x.yaml", 25, "bf16", "cuda:0")
        assert engine.scored[1].names == ("boolq", "x.yaml")
        await pilot.press("Y")
        assert copied == [
            f"ckptdiff scores {A} {B} --tasks boolq,x.yaml --limit 25 --dtype bf16 --device cuda:0"
        ]


async def test_a_limit_of_no_items_is_refused(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("t", "tab", "0", "enter")
        await settle(app, pilot)
        assert len(engine.scored) == 1
        assert toasts(app)[-1] == "Limit: at least 1 item, or nothing for all."


async def test_an_error_of_the_tasks_is_shown(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.no_scores = BadArgument("lm-evaluation-harness has no task bolq: did you mean boolq?")
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot, "bolq")
        assert outcome(app).startswith("x lm-evaluation-harness has no task bolq")
        assert not app.screen.query_one(ItemList).display
        await pilot.press("y")
        assert toasts(app)[-1] == "There is no result yet."


# ── what a run shows ─────────────────────────────────────────────────────────────────────────────


async def test_the_table_fills_while_it_runs_and_x_leaves_what_is_there(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty(), "24 questions; at most 400 MB of memory")
    engine.hold_scores = 5
    engine.answered = made.faulty(complete=False)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5", "a", "enter")
        await until_held_up(app, pilot, 2)
        assert [each.split()[0] for each in table(app)] == ["task", "boolq"]
        assert outcome(app).splitlines()[0] == (
            f"{'Batch 2 of 2, layer 0: 12 of 24 questions, 4 a second, 3 s left   x stops.':76}"
        )
        bar = outcome(app).splitlines()[1]
        assert bar.count("#") == len(bar[1:-1]) * 4 // 6
        assert toasts(app) == ["24 questions; at most 400 MB of memory"]
        assert not app.screen.query_one(ItemList).display
        assert "x Stop" in text(app, "KeyLine")
        await pilot.press("enter")
        assert toasts(app)[-1].startswith("Items are listed once")
        await pilot.press("p")
        assert toasts(app)[-1] == "Logits: no item was answered yet."
        await pilot.press("r")
        assert toasts(app)[-1] == "These are being compared. x stops."
        assert len(engine.scored) == 1
        await pilot.press("x")
        await pilot.pause()
        assert outcome(app).startswith("Stopping: what was answered is put together")
        engine.gate.set()
        await settle(app, pilot)
        assert engine.closed == 1
        told = " ".join(outcome(app).split())
        assert "Stopped when 12 of 24 questions were answered. Enter at Tasks starts" in told
        assert "All that follows is of what was answered." in told
        assert len(items(app)) > 1
        assert len(table(app)) > 2


async def test_escape_stops_a_run_and_then_goes_back(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps, engine.hold_scores = made.steps(made.faulty()), 5
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5", "a", "enter")
        await until_held_up(app, pilot, 2)
        await pilot.press("escape")
        engine.gate.set()
        await settle(app, pilot)
        assert " ".join(outcome(app).split()) == (
            "Stopped when 12 of 24 questions were answered. Enter at Tasks starts again."
        )
        assert [each.split()[0] for each in table(app)] == ["task", "boolq"]  # it stays
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is tensors(app)


async def test_a_second_x_does_without_what_was_answered(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps, engine.hold_scores = made.steps(made.faulty()), 5
    engine.answered = made.faulty(complete=False)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5", "a", "enter")
        await until_held_up(app, pilot, 2)
        await pilot.press("x", "x")
        engine.gate.set()
        await settle(app, pilot)
        assert outcome(app).startswith("Stopped when 12 of 24 questions were answered.")
        assert screen(app).score_run is not None
        assert screen(app).score_run.diff is None  # type: ignore[union-attr]


@pytest.mark.parametrize("folder", ["kept", None])
async def test_a_run_that_fails_shows_the_error_and_what_was_answered(
    make_app: Make,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str | None,
) -> None:
    engine.score_steps = made.steps(made.faulty())[:6]
    engine.no_scores = UnreadableFile("/a/x.distcp: there is no such file")
    engine.answered = made.faulty(complete=False)
    app = make_app(A, B, history=folder and tmp_path / folder / "results")
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    goes_on = "goes on from there" if folder else "starts again"
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot)
        told = " ".join(outcome(app).split())
        assert told.startswith(
            "x /a/x.distcp: there is no such file It failed when 12 of 24 questions were "
            f"answered. Enter at Tasks {goes_on}. ! {made.FAULT_WORDS} All that follows is of "
            "what was answered."
        )
        assert len(items(app)) > 1
        assert len(table(app)) > 2
        await pilot.press("y")
        assert copied[0].splitlines()[:2] == [
            "x /a/x.distcp: there is no such file", f"! {made.FAULT_WORDS}",
        ]  # fmt: skip
        engine.answered = None  # it cannot be put together either
        await pilot.press("r")
        await settle(app, pilot)
        assert " ".join(outcome(app).split()) == (
            "x /a/x.distcp: there is no such file It failed when 12 of 24 questions were "
            f"answered. Enter at Tasks {goes_on}."
        )
        assert not app.screen.query_one(ItemList).display


async def test_ctrl_c_stops_the_scores_that_are_looked_at(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps, engine.hold_scores, engine.hold = made.steps(made.clean()), 5, 4
    async with app.run_test(size=NARROW) as pilot:
        while tensors(app).session.b is None or tensors(app).session.phase != "comparing":
            await pilot.pause(0.02)
        await pilot.press("5", "a", "enter")  # while tensors are being compared
        await until_held_up(app, pilot, 2)
        await pilot.press("ctrl+c")
        assert tensors(app).scores.run.state != "running"  # type: ignore[union-attr]
        assert tensors(app).session.is_busy
        engine.gate.set()
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"


async def test_a_run_goes_on_behind_other_screens_and_says_when_it_ends(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps, engine.hold_scores = made.steps(made.faulty()), 5
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("5", "a", "enter")
        await until_held_up(app, pilot, 2)
        await pilot.press("1")
        await pilot.pause()
        assert app.screen is tensors(app)
        engine.gate.set()
        await settle(app, pilot)
        assert toasts(app)[-1] == f"! {made.FAULT_WORDS}   5 shows it."
        await pilot.press("5")
        await pilot.pause()
        assert isinstance(app.focused, ScoreTable)
        assert app.screen.query_one("#tasks", TaskInput).value == "a"
        assert len(items(app)) > 1


async def test_reading_the_checkpoints_again_drops_the_scores(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("1", "r")
        await settle(app, pilot)
        assert tensors(app).scores.run is None


# ── the result ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
async def test_the_table_the_verdict_and_what_the_table_does_not_show(
    app: CkptDiffApp, engine: FakeEngine, size: tuple[int, int]
) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=size) as pilot:
        await ask(app, pilot)
        group = ["lm-eval"] if size == WIDE else []
        rows = {each.split()[len(group)]: each.split() for each in table(app)}
        assert rows["boolq"][: len(group) + 5] == [
            *group, "boolq", "acc", "0.7125", "0.7125", "0.00%",
        ]  # fmt: skip
        assert "50.00%" in rows["hellaswag"]
        assert "acc_norm" not in rows["hellaswag"]
        subtitle = str(app.screen.query_one(ScoreTable).border_subtitle)
        assert subtitle == "mean |A-B|/A 12.50%"
        assert outcome(app).startswith(f"! {made.FAULT_WORDS[:40]}")
        told = " ".join(outcome(app).split())
        assert "Both sides choose the same in 5 of 7 items: 2 flips" in told
        assert "s goes to item 0 of boolq, the first that shows it; p compares its logits." in told
        assert all(len(each) <= size[0] - 2 for each in outcome(app).splitlines())


async def test_flips_come_first_then_the_items_that_are_furthest_apart(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot)
        rows = [each.split()[:6] for each in items(app)[1:]]
        assert rows == [
            ["!", "hellaswag", "7", "1", "2", "1"],
            ["!", "mmlu_astronomy", "3", "1", "2", "2"],
            ["hellaswag", "8", "1", "1", "1", "5.5e+00"],
            ["boolq", "0", "1", "1", "1", "2.5e-01"],
            ["mmlu_philosophy", "4", "1", "1", "2", "1.2e-01"],
            ["wikitext", "0", "-", "-", "-", "1.0e-04"],
            ["boolq", "1", "1", "1", "1", "0"],
            ["mmlu_prehistory", "5", "1", "1", "2", "0"],
        ]
        await pilot.press("j", "enter", "s")  # from the items of hellaswag alone
        await pilot.pause()
        shown = app.screen.query_one(ItemList).row
        assert shown is not None
        assert (shown.task, shown.doc) == ("boolq", 0)  # the first that shows it
        assert "s Go to item" in text(app, "KeyLine")


async def test_enter_on_a_task_lists_its_items_and_escape_all_again(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot)
        await pilot.press("j", "enter")
        await pilot.pause()
        assert all("hellaswag" in each for each in items(app)[1:])
        assert len(items(app)) == 3
        assert isinstance(app.focused, ItemList)
        assert "2 of 8, esc lists all" in str(app.focused.border_subtitle)
        await pilot.press("escape")
        await pilot.pause()
        assert len(items(app)) == 9
        await pilot.press("j", "j", "enter")  # the class of two subjects of MMLU
        await pilot.pause()
        assert [each.split()[0] for each in items(app)[1:]] == [
            "mmlu_philosophy",
            "mmlu_prehistory",
        ]


async def test_a_shows_every_metric_of_every_task(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot)
        assert len(table(app)) == 6
        await pilot.press("a")
        await pilot.pause()
        names = [each.split()[1:3] for each in table(app)[1:]]
        assert ["hellaswag", "acc_norm"] in names
        assert ["mmlu_astronomy", "acc"] in names
        await pilot.press("a")
        await pilot.pause()
        assert len(table(app)) == 6


async def test_a_clean_pair_is_only_arithmetic(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.clean(notes=("a note",), conditions=("x is off",)))
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert outcome(app).startswith(f"= {made.CLEAN_WORDS}")
        assert "Note: a note" in outcome(app)
        assert "This holds if x is off." in outcome(app)
        assert not any("!" in each for each in items(app))
        await pilot.press("s")
        assert toasts(app)[-1] == "No item shows a difference of weights or config."
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(app.screen, GuideScreen)


async def test_y_copies_verdict_and_table(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.score_steps = made.steps(made.faulty())
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("y")
        assert copied[0].startswith(f"! {made.FAULT_WORDS}")
        assert "\nlm-eval\t\thellaswag\tacc_norm\t0.62\t0.61\t1.61%\t2" in copied[0]


# ── one item ─────────────────────────────────────────────────────────────────────────────────────


async def open_first(app: CkptDiffApp, pilot: Pilot[None]) -> ScoreItemScreen:
    await ask(app, pilot)
    await pilot.press("tab", "g", "enter")
    await pilot.pause()
    assert isinstance(app.screen, ScoreItemScreen)
    return app.screen


async def test_an_item_opens_with_its_answers_the_flip_and_the_right_choice(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=NARROW) as pilot:
        await open_first(app, pilot)
        title = text(app, "#item-title")
        assert "hellaswag 7" in title
        assert "! flip: A chooses 1, B 2, right is 1" in title
        assert title.endswith("1 of 8")
        assert text(app, "#asked").splitlines() == [
            "Question 7:",
            "What is the capital of France?",
            "Answer:",
        ]
        rows = [each.split() for each in lines(app.screen.query_one(AnswerList)) if each]
        assert rows[0] == ["#", "chosen", "right", "A", "B", "|A-B|", "floor"]
        assert rows[1][:7] == ["1", "A", "right", "-1.50000", "-4.50000", "3.0e+00", "2.0e-06"]
        assert rows[2][:5] == ["2", "B", "-1.75000", "-2.25000", "5.0e-01"]
        assert rows[3][:3] == ["3", "-4.00000", "-5.00000"]
        assert app.screen.query_one(AnswerList).row == 1  # what B chooses
        assert "2: ' Rome'" in text(app, "#answer")
        await pilot.press("k")
        await pilot.pause()
        assert "1: ' Paris'" in text(app, "#answer")
        assert "acc A 1.0000 B 0.0000" in text(app, "#answer")


async def test_n_goes_from_item_to_item_and_round(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.faulty())
    async with app.run_test(size=NARROW) as pilot:
        opened = await open_first(app, pilot)
        seen = []
        for key in ("n", "n", "N", "N", "N"):
            await pilot.press(key)
            await pilot.pause()
            seen.append((opened.item.task, opened.item.doc))
        assert seen[:3] == [("mmlu_astronomy", 3), ("hellaswag", 8), ("mmlu_astronomy", 3)]
        assert seen[4] == ("mmlu_prehistory", 5)
        assert text(app, "#item-title").endswith("8 of 8")
        await pilot.press("q")
        await pilot.pause()
        screen(app)


async def test_p_gives_both_sides_the_ids_of_the_answer_under_the_cursor(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.score_steps = made.steps(made.faulty())
    engine.steps = logits_made.steps(logits_made.faulty())
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=NARROW) as pilot:
        await open_first(app, pilot)
        await pilot.press("j", "p")
        await settle(app, pilot)
        assert isinstance(app.screen, LogitsScreen)
        run = app.screen.prompt_run
        assert run is not None
        assert run.text == "ids:1,450,7483,307,902"
        assert run.prompt is not None
        assert run.prompt.ids == (1, 450, 7483, 307, 902)
        assert run.diff is not None
        await pilot.press("Y")
        assert copied == [f"ckptdiff logits {A} {B} --ids 1,450,7483,307,902"]
        await pilot.press("q")
        await pilot.pause()
        assert isinstance(app.screen, ScoreItemScreen)


async def test_p_on_the_list_takes_the_answer_that_shows_most(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.faulty())
    engine.steps = logits_made.steps(logits_made.faulty())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("tab", "g", "p")
        await settle(app, pilot)
        assert isinstance(app.screen, LogitsScreen)
        assert app.screen.prompt_run is not None
        assert app.screen.prompt_run.text == "ids:1,450,7483,307,900"


async def test_letters_are_keys_while_the_logits_of_an_item_are_computed(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps, engine.hold_logits = made.steps(made.faulty()), 0
    engine.steps = logits_made.steps(logits_made.faulty())
    async with app.run_test(size=NARROW) as pilot:
        await open_first(app, pilot)
        await pilot.press("p")
        while not isinstance(app.screen, LogitsScreen) or app.screen.prompt_run is None:
            await pilot.pause(0.02)
        await pilot.pause(0.1)
        await pilot.press("x")
        assert app.screen.prompt_run.state == "stopped"
        engine.gate.set()
        await settle(app, pilot)


async def test_a_rolling_text_opens_by_its_windows(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("tab", "g")
        at = next(
            n for n, each in enumerate(screen(app).query_one(ItemList).rows) if not each.choices
        )
        await pilot.press(*["j"] * at, "enter")
        await pilot.pause()
        assert "whose windows are scored" in text(app, "#item-title")
        rows = [each for each in lines(app.screen.query_one(AnswerList)) if each]
        assert [each.split()[-1] for each in rows[1:]] == ["1", "2", "3"]
        assert "window 1" in rows[1]


async def test_y_copies_an_item(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.score_steps = made.steps(made.faulty())
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=NARROW) as pilot:
        await open_first(app, pilot)
        await pilot.press("y")
        assert copied[0].startswith("hellaswag 7: ! flip")
        assert "What is the capital of France?" in copied[0]
        assert "' Oslo'" in copied[0]


# ── around it ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("start", "ascii_only"), [((200, 50), False), ((40, 10), True)])
async def test_every_size_works(
    make_app: Make, engine: FakeEngine, start: tuple[int, int], ascii_only: bool
) -> None:
    engine.score_steps = made.steps(made.faulty())
    app = make_app(A, B, ascii_only=ascii_only)
    async with app.run_test(size=start) as pilot:
        await ask(app, pilot)
        for size in (start, *SIZES, start):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert len(table(app)) > 1
            assert len(items(app)) > 1
            assert outcome(app).startswith("! Weights or config")
        await pilot.press("m", "m", "tab", "m", "m", "enter")
        await pilot.pause()
        assert isinstance(app.screen, ScoreItemScreen)
        for size in (start, *SIZES):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            shown = [each for each in lines(app.screen.query_one(AnswerList)) if each]
            assert len(shown) > 1
            if ascii_only:
                told = [*shown, *text(app, "#answer").splitlines()]
                assert all(each.isascii() for each in told)
        await pilot.press("m", "tab", "m", "escape", "escape")
        await pilot.pause()


async def test_many_items_scroll(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.score_steps = made.steps(made.many())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("tab", "G")
        await pilot.pause()
        assert items(app)[-1].split()[1] == "0"  # the one that is least apart
        assert "300 of 300" in str(screen(app).query_one(ItemList).border_subtitle)


async def test_a_click_on_the_dtype_and_the_other_keys(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.score_steps = made.steps(made.clean())
    async with app.run_test(size=WIDE) as pilot:
        await ask(app, pilot)
        await pilot.click("#dtype", offset=(8, 0))
        assert app.screen.query_one("#dtype", Choice).value == "fp64"
        assert any("|A-B|/A" in each.plain for each in help_lines(screen(app)))
        await pilot.press("f1")
        await pilot.press("escape", "2")
        await pilot.pause()
        assert isinstance(app.screen, ConfigScreen)
        await pilot.press("q")
        await pilot.pause()
        names = [name for name, _, _ in Commands(screen(app))._commands()]
        assert {"scores: choose tasks ...", "scores: run", "copy: scores", "view: tensors"} <= set(
            names
        )
        await pilot.press("x")
        assert toasts(app)[-1] == "Stop: nothing is running."


async def test_the_palette_opens_the_screen(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        commands = {name: run for name, _, run in Commands(app.screen)._commands()}
        commands["scores: compare benchmark scores ..."]()
        await pilot.pause()
        screen(app)


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_progress_says_what_is_known() -> None:
    assert progress_words(ScoreProgress("reading tasks", 0, 0, 0.5)) == "Reading tasks ..."
    words = progress_words(ScoreProgress("layer 3", 1200, 5000, 60.0, left=190.0, rate=20.0))
    assert words == "Layer 3: 1,200 of 5,000 questions, 20 a second, 3 min 10 s left"


def test_answers_are_kept_where_the_command_line_keeps_them() -> None:
    screen = TensorsScreen(
        Session((A, B), make_executor=InlineExecutor), LocalEngine(1), history=history_folder()
    )
    assert screen.scores._folder == journal_folder()


def test_a_run_keeps_rows_that_are_final_and_the_last_of_each() -> None:
    run = ScoreRun(1, ScoreRequest("a"), clock=lambda: 0.0)
    first, later = made.row("boolq", 0.5, 0.5, 2), made.row("boolq", 0.75, 0.5, 4)
    for tasks in ((first,), (), (later,)):
        run.advance(ScoreProgress("layer 1", 1, 2, 0.1, tasks=tasks))
    assert run.tasks == (later,)


@pytest.mark.parametrize("width", [20, 38, 76, 196])
def test_no_line_of_the_outcome_is_wider_than_the_screen(width: int) -> None:
    run = ScoreRun(1, ScoreRequest("a"), clock=lambda: 0.0)
    run.end("stopped", ScoreResult.of(made.faulty(complete=False, notes=("note " * 30,))))
    for each in outcome_lines(run, width, ascii_only=False):
        assert sum(len(part) for part, _ in each) <= width
