"""The screen of scores on the real engine: a tiny pair, a task of one's own, both computed."""

from __future__ import annotations

import json
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import pytest

from ckptdiff.extras import why_not
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.score_item import ScoreItemScreen
from ckptdiff.tui.screens.scores import ScoresScreen
from ckptdiff.tui.widgets.score_lists import AnswerList, ItemList, ScoreTable
from ckptdiff.tui.widgets.task_input import TaskInput
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.tokenizers_made import tokenizer_json
from tests.support.tui.harness import lines, settle, tensors, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., Path]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not("scores")), reason="needs the extra `scores`"),
]
VOCAB = 320
TASK = """\
task: colours
dataset_path: json
dataset_kwargs:
  data_files: colours.jsonl
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
DOCUMENTS = (
    ("What colour is the sky?", ("blue", "green", "red"), 0),
    ("What colour is grass?", ("blue", "green", "red"), 1),
    ("What colour is blood?", ("blue", "green", "red"), 2),
)


@pytest.fixture(autouse=True)
def _a_process_that_can_start_others() -> None:
    """Start multiprocessing's helper while stderr is still that of the terminal."""
    resource_tracker.ensure_running()


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = (
        {"question": question, "choices": choices, "right": right}
        for question, choices, right in DOCUMENTS
    )
    (tmp_path / "colours.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = tmp_path / "colours.yaml"
    file.write_text(TASK)
    return file


@pytest.fixture
def pair(tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path]) -> tuple[Path, Path]:
    """Return a tiny model with a tokenizer, and the same on two ranks."""
    hf = copy_of(tiny_hf(vocab=VOCAB, single=True))
    (hf / "tokenizer.json").write_text(tokenizer_json())
    return hf, tiny_megatron(model={"vocab": VOCAB, "single": True}, tp=2)


async def run(app: CkptDiffApp, pilot: Pilot[None], task: Path) -> ScoresScreen:
    """Open the screen and run a task to its end."""
    await settle(app, pilot)
    await pilot.press("5")
    await pilot.pause()
    return await ask(app, pilot, task)


async def ask(app: CkptDiffApp, pilot: Pilot[None], task: Path) -> ScoresScreen:
    """Type a task into the field that has the focus, and run it to its end."""
    app.screen.query_one("#tasks", TaskInput).value = str(task)
    await pilot.press("enter")
    await settle(app, pilot)
    assert isinstance(app.screen, ScoresScreen)
    return app.screen


async def test_a_task_of_ones_own_is_answered_by_both_sides_and_kept_once_its_path_is_right(
    make_app: Callable[..., CkptDiffApp], pair: tuple[Path, Path], task: Path, tmp_path: Path
) -> None:
    app = make_app(*pair, engine=LocalEngine(1), history=tmp_path / "cache/results")
    async with app.run_test(size=(120, 40)) as pilot:
        await run(app, pilot, tmp_path / "no.yaml")
        assert text(app, "#outcome").split()[0] == "x"
        assert "no.yaml" in "".join(text(app, "#outcome").split())
        await pilot.press("t")
        screen = await ask(app, pilot, task)
        assert text(app, "#outcome").startswith("= Only arithmetic for these items")
        assert "Both sides choose the same in 3 of 3 items" in text(app, "#outcome")
        (row,) = [each for each in lines(screen.query_one(ScoreTable))[1:] if each]
        assert row.split()[:3] == ["other", "colours", "acc"]
        assert row.split()[3] == row.split()[4]
        assert len([each for each in lines(screen.query_one(ItemList)) if each]) == 4
        # A second run goes on from what is kept: nothing is left to compute.
        await pilot.press("r")
        await settle(app, pilot)
        kept = tensors(app).scores.run
        assert kept is not None
        assert any("are kept from before" in note for note in kept.notes)
        assert text(app, "#outcome").startswith("= Only arithmetic for these items")
        await pilot.press("tab", "enter")
        await pilot.pause()
        assert isinstance(app.screen, ScoreItemScreen)
        answers = [each.split() for each in lines(app.screen.query_one(AnswerList))[1:] if each]
        assert [each[-1] for each in answers] == ["'blue'", "'green'", "'red'"]
        assert (
            app.screen.item.target == int(next(each[0] for each in answers if "right" in each)) - 1
        )
        await pilot.press("p")
        await settle(app, pilot)
        assert isinstance(app.screen, LogitsScreen)
        asked = app.screen.prompt_run
        assert asked is not None
        assert asked.error is None
        assert asked.diff is not None
        assert asked.diff.verdict == "arithmetic"
        assert "".join(asked.diff.texts).endswith(("blue", "green", "red"))
