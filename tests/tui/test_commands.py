"""The command palette."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from textual.command import Command, CommandList, DiscoveryHit

from ckptdiff.settings import load_settings
from ckptdiff.tui.commands import MOST_TENSORS, Commands
from tests.support.tui.fakes import A, B, FakeEngine, layer, names
from tests.support.tui.harness import rows, settle, tensors, toasts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.command import Hit

    from ckptdiff.tui.app import CkptDiffApp


pytestmark = pytest.mark.mostly_slow(one_in=6)


async def offered(app: CkptDiffApp) -> dict[str, DiscoveryHit]:
    hits = [hit async for hit in Commands(app.screen).discover()]
    return {str(hit.display): hit for hit in hits}  # type: ignore[union-attr, misc]


async def found(app: CkptDiffApp, query: str) -> list[Hit]:
    return [hit async for hit in Commands(app.screen).search(query)]  # type: ignore[misc]


async def test_only_what_applies_now_is_offered(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        now = await offered(app)
        assert "compare: again" in now
        assert "compare: stop" not in now
        assert "filter: clear" not in now
        await pilot.press("slash", *"mlp", "enter", "d")
        now = await offered(app)
        assert {"filter: clear", "filter: all tensors"} <= set(now)
        assert all(": " in name for name in now)


async def test_each_command_does_what_its_key_does(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("g")
        now = await offered(app)
        now["view: next difference"].command()
        assert rows(app).row == layer(0, "self_attn.q_proj.weight")
        now["filter: differences only"].command()
        assert tensors(app).session.differences_only
        now["sort: lowest cos first"].command()
        assert tensors(app).session.sort == "cos"
        now["layers: fold all"].command()
        now["settings: show file"].command()
        await pilot.pause()
        assert toasts(app)[-1].endswith("settings.json")
        assert now["view: next difference"].help == "n"


async def test_a_tensor_is_found_by_words_and_the_filter_that_hides_it_goes(
    app: CkptDiffApp,
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"norm", "enter")
        (hit,) = await found(app, "tensor: layers.2 q_proj")
        hit.command()
        assert rows(app).row == layer(2, "self_attn.q_proj.weight")
        assert tensors(app).session.filter == ""


async def test_hits_are_capped_and_quick_among_90000_names(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.tensors = names(22_500)
    engine.hold = 0
    app = make_app(A, B)
    async with app.run_test(size=(80, 24)) as pilot:
        while tensors(app).session.phase != "comparing":
            await pilot.pause(0.02)
        before = time.thread_time()
        hits = await found(app, "proj")
        assert len(hits) == MOST_TENSORS
        assert len(await found(app, "layers.22499 q_proj")) == 1
        assert time.thread_time() - before < 0.5
        tensors(app).stop()


async def test_another_tolerance_compares_again_and_is_named(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        (hit,) = [hit for hit in await found(app, "ulp:2") if str(hit.text).startswith("tol")]
        hit.command()
        await settle(app, pilot)
        assert engine.tolerances == ["cast", "ulp:2"]
        assert "tolerance ulp:2" in str(rows(app).border_title)
        assert "--tolerance ulp:2" in tensors(app).session.command_line()
        assert await found(app, "ulp:nonsense") == []


async def test_colon_opens_the_palette_and_enter_runs_a_command(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press(*"diffsonly")
        await pilot.pause(0.3)
        await pilot.press("escape", "escape")
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"differences only")
        await pilot.pause(0.5)
        await pilot.press("enter", "enter")
        await settle(app, pilot)
        assert tensors(app).session.differences_only


async def test_a_page_key_before_the_palette_is_laid_out(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("colon")
        commands = app.screen.query_one(CommandList)
        commands.set_options([Command(line, DiscoveryHit(line, print)) for line in "ab"])
        commands.highlighted = 1
        commands.styles.height = 0
        await pilot.pause()
        await pilot.press("pagedown", "pageup")
        assert app.is_running


async def test_changes_in_quick_succession_are_all_kept(app: CkptDiffApp, tmp_path: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        for _ in range(25):
            app.change_settings(differences_only=False)
            app.change_settings(differences_only=True)
        await app.workers.wait_for_complete()
        assert load_settings(tmp_path / "config" / "settings.json") == (app.settings, None)
        assert app.settings.differences_only
        assert toasts(app) == []
