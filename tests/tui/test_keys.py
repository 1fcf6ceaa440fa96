"""One table of keys: every binding can be found, rebound and read about."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from textual.binding import Binding

from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.model.comparison import GLYPHS
from ckptdiff.tui.screens.ask import AskScreen
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.conversion import ConversionScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.screens.entries import EntriesScreen
from ckptdiff.tui.screens.findings import FindingList, FindingsScreen
from ckptdiff.tui.screens.guide import GuideScreen
from ckptdiff.tui.screens.help import MEANINGS, HelpScreen, help_lines
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.open import OpenScreen
from ckptdiff.tui.screens.score_item import ScoreItemScreen
from ckptdiff.tui.screens.scores import ScoresScreen
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.screens.values import ValuesScreen
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.next_tokens import NextTokens
from ckptdiff.tui.widgets.prompt_input import PromptInput
from ckptdiff.tui.widgets.score_lists import ItemList, ScoreTable
from ckptdiff.tui.widgets.tap_map import TapMap
from ckptdiff.tui.widgets.task_input import TaskInput
from ckptdiff.tui.widgets.tensor_list import TensorList
from tests.support.tui.harness import lines, settle, tensors, text, toasts

pytestmark = pytest.mark.mostly_slow(one_in=5)
OWNERS: tuple[Any, ...] = (
    CkptDiffApp,
    BaseScreen,
    OpenScreen,
    TensorsScreen,
    ConfigScreen,
    DetailScreen,
    EntriesScreen,
    FindingsScreen,
    FindingList,
    GuideScreen,
    ValuesScreen,
    ConvertScreen,
    ConversionScreen,
    LogitsScreen,
    PromptInput,
    NextTokens,
    TapMap,
    ScoresScreen,
    ScoreTable,
    ItemList,
    TaskInput,
    ScoreItemScreen,
    AskScreen,
    Choice,
    TensorList,
)
BANNED = {"ctrl+m", "ctrl+i", "ctrl+h", "ctrl+left_square_bracket"}  # Enter, Tab, Backspace, Esc


def bindings(owner: Any) -> list[Binding]:
    return [binding for binding in owner.__dict__["BINDINGS"] if isinstance(binding, Binding)]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_every_binding_has_an_id_and_says_what_it_does(owner: Any) -> None:
    for binding in bindings(owner):
        assert binding.id is not None
        assert binding.tooltip, binding.id


def test_ids_are_unique() -> None:
    ids = Counter(binding.id for owner in OWNERS for binding in bindings(owner))
    assert [name for name, count in ids.items() if count > 1] == []


def test_no_key_is_one_that_terminals_cannot_tell_from_another() -> None:
    for owner in OWNERS:
        for binding in bindings(owner):
            keys = set(binding.key.split(","))
            assert not keys & BANNED
            assert not any(key.startswith("alt+") for key in keys)
            assert keys - {"ctrl+s", "ctrl+q"} or binding.id == "open.quit"


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_every_action_exists(owner: Any) -> None:
    for binding in bindings(owner):
        name = binding.action.partition("(")[0].rpartition(".")[2]
        found = owner if "." not in binding.action else CkptDiffApp
        assert hasattr(found, f"action_{name}"), binding.id


def test_every_status_has_a_glyph_and_a_meaning() -> None:
    assert set(MEANINGS) == set(GLYPHS)
    assert len(set(GLYPHS.values())) == len(GLYPHS)


async def test_the_help_lists_the_keys_of_list_screen_and_app_and_the_glyphs(
    app: CkptDiffApp,
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        shown = "\n".join(line.plain for line in help_lines(app.screen))
        for owner in (TensorList, TensorsScreen, CkptDiffApp):
            for binding in bindings(owner):
                first, *_ = binding.tooltip.split("; ")
                assert first.split()[0] in shown
        assert all(len(line) <= 76 for line in shown.splitlines())
        assert "! differ" in shown
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("j", "ctrl+d", "k", "question_mark")
        assert app.screen is tensors(app)  # type: ignore[comparison-overlap]


@pytest.mark.slow
async def test_the_key_line_fits_and_ends_with_help_and_the_way_out(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        (line,) = lines(app.screen.query_one("KeyLine"))
        assert line == "enter Open  n Next diff  f Findings  c Convert  p Logits  ? Help  q Quit"
        await pilot.resize_terminal(60, 16)
        await pilot.pause()
        (line,) = lines(app.screen.query_one("KeyLine"))
        assert line.endswith("? Help  q Quit")
        assert len(line) < 60


async def test_a_key_can_be_rebound_by_its_id(app: CkptDiffApp) -> None:
    app.set_keymap({"tensors.differences": "f6"})
    async with app.run_test(size=(180, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("f6")
        assert tensors(app).session.differences_only
        assert "f6 Diffs only" in text(app, "KeyLine")


async def test_a_click_on_the_key_line_is_the_key(app: CkptDiffApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        at = text(app, "KeyLine").index("Diffs only") + 1
        await pilot.click("KeyLine", offset=(at, 0))
        await pilot.pause()
        assert tensors(app).session.differences_only


@pytest.mark.slow
@pytest.mark.parametrize("key", ["Q", "ctrl+q"])
async def test_quitting_works_from_any_screen(app: CkptDiffApp, key: str) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("n", "enter")
        await pilot.pause()
        await pilot.press(key)
    assert app.return_code == 0


async def test_suspending_where_it_is_not_possible_does_no_harm(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("ctrl+z")
        assert toasts(app) == []
