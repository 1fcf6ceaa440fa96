"""The first screen without arguments, and the tree to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual.widgets import OptionList

from ckptdiff.settings import RecentPair, Settings, load_settings, save_settings
from ckptdiff.tui.screens.browse import BrowseScreen, FolderTree
from ckptdiff.tui.screens.open import OpenScreen
from ckptdiff.tui.widgets.path_input import PathInput, complete
from tests.support.tui.fakes import A, B
from tests.support.tui.harness import NOW, settle, static, tensors, text, toasts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]

pytestmark = pytest.mark.mostly_slow(one_in=10)
SIZE = (80, 24)


async def type_path(app: CkptDiffApp, pilot: Pilot[None], field: str, path: object) -> None:
    app.screen.query_one(f"#{field}", PathInput).value = str(path)
    await pilot.pause(0.25)  # until the typing is taken for finished
    await settle(app, pilot)


async def test_what_was_recognised_stands_under_each_field(make_app: Make) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await type_path(app, pilot, "a", A)
        await type_path(app, pilot, "b", B)
        assert static(app, "#words-a") == "llama  3 layers  14 tensors  123 kB  bf16  1 file"
        assert static(app, "#words-b").startswith("Megatron  TP 4  3 layers  14 tensors")


async def test_what_is_no_checkpoint_says_what_to_do(make_app: Make, tmp_path: Path) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await type_path(app, pilot, "b", tmp_path)
        assert static(app, "#words-b") == f"{tmp_path}: is no checkpoint [b]of any kind[/b]"
        assert app.screen.query_one("#words-b").has_class("-trouble")
        await type_path(app, pilot, "b", "")
        assert "latest_checkpointed_iteration.txt" in static(app, "#words-b")


async def test_enter_compares_both_or_shows_a_alone(make_app: Make) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("enter")
        assert toasts(app)[-1] == "A is empty: type a path, or press ctrl+o to browse."
        await type_path(app, pilot, "a", A)
        await pilot.press("enter")
        await settle(app, pilot)
        assert tensors(app).session.browsing
        await pilot.press("q")
        await type_path(app, pilot, "b", B)
        await pilot.press("enter")
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"
        await pilot.press("q")
        assert isinstance(app.screen, OpenScreen)


async def test_tab_completes_a_folder_and_then_goes_to_the_next_field(
    make_app: Make, tmp_path: Path
) -> None:
    (tmp_path / "llama-hf").mkdir()
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        field = app.screen.query_one("#a", PathInput)
        field.value = f"{tmp_path}/lla"
        field.action_end()
        await pilot.pause(0.2)
        await settle(app, pilot)
        await pilot.press("tab")
        assert field.value == f"{tmp_path}/llama-hf/"
        await pilot.press("tab")
        assert app.focused is app.screen.query_one("#b")


def test_completion_is_of_folders_and_keeps_what_was_typed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "only-a-file").touch()
    assert complete(f"{tmp_path}/o") == f"{tmp_path}/one/"
    assert complete(f"{tmp_path}/x") is None
    assert complete(f"{tmp_path}/") is None
    assert complete("/nonexistent/x") is None
    assert complete("") is None


async def test_recent_pairs_are_listed_and_enter_compares_one(
    make_app: Make, tmp_path: Path
) -> None:
    pairs = (
        RecentPair(str(A), str(B), "differ", 64, NOW - 7200),
        RecentPair("/x/a", "/x/b", "same", 0, NOW - 90_000),
    )
    save_settings(Settings(recent=pairs), tmp_path / "config" / "settings.json")
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        shown = [str(option.prompt) for option in app.screen.query_one(OptionList).options]
        assert [line.split() for line in shown] == [
            ["ckpt/llama-hf", "run7/iter_0001000", "!", "64", "differ", "2", "h", "ago"],
            ["x/a", "x/b", "=", "same", "yesterday"],
        ]
        app.screen.query_one(OptionList).focus()
        await pilot.press("enter")
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"
        assert app.settings.recent[0] == RecentPair(str(A), str(B), "differ", 4, NOW)


async def test_a_comparison_is_remembered_with_differences_only_and_begins_in_model_order(
    make_app: Make, tmp_path: Path
) -> None:
    app = make_app(A, B)
    async with app.run_test(size=SIZE) as pilot:
        await settle(app, pilot)
        await pilot.press("s", "s", "d")
        await settle(app, pilot)
    settings, trouble = load_settings(tmp_path / "config" / "settings.json")
    assert trouble is None
    assert settings.differences_only
    assert settings.recent == (RecentPair(str(A), str(B), "differ", 4, NOW),)
    again = make_app(A, B)
    async with again.run_test(size=SIZE) as pilot:
        await settle(again, pilot)
        assert tensors(again).session.sort == "model"
        assert len(tensors(again).session.tensors.order) == 4


async def test_settings_that_cannot_be_read_are_said_and_not_fatal(
    make_app: Make, tmp_path: Path
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings.json").write_text("{")
    app = make_app(A, B)
    async with app.run_test(size=SIZE) as pilot:
        await settle(app, pilot)
        assert "is not readable as settings: line 1 is no JSON." in toasts(app)[0]


async def test_ctrl_o_browses_from_where_the_field_is(make_app: Make, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / ".hidden").mkdir()
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        app.screen.query_one("#a", PathInput).value = f"{tmp_path}/not-there"
        await pilot.press("ctrl+o")
        await settle(app, pilot)
        assert isinstance(app.screen, BrowseScreen)
        tree = app.screen.query_one(FolderTree)
        assert "one" in [str(node.label) for node in tree.root.children]
        assert ".hidden" not in [str(node.label) for node in tree.root.children]
        await pilot.press("j")
        await pilot.press("enter")
        chosen = app.screen.query_one("#a", PathInput).value
        assert chosen.startswith(f"{tmp_path}/")
        await pilot.press("ctrl+o", "minus")
        await settle(app, pilot)
        await pilot.press("escape")
        assert app.screen.query_one("#a", PathInput).value == chosen


async def test_the_key_line_shows_only_keys_that_are_not_text(make_app: Make) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert text(app, "KeyLine") == (
            "enter Compare  tab Complete, next  ctrl+o Browse  f1 Help  ctrl+q Quit"
        )
