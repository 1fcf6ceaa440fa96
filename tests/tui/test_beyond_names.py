"""What is compared beyond weights of known names: equal rows without rules, optimizer state."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import BadArgument, WorkerDied
from ckptdiff.tui.commands import Commands
from ckptdiff.tui.model.inventory import Unmapped
from ckptdiff.tui.screens.help import help_lines
from ckptdiff.tui.text.progress import outcome
from tests.support.tui.fakes import A, B, FakeEngine, names, result
from tests.support.tui.harness import lines, rows, settle, tensors, text, toasts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]

pytestmark = pytest.mark.mostly_slow(one_in=6)
NARROW, WIDE = (80, 24), (120, 40)


async def until_matching(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    while tensors(app).session.matched == (0, 0):
        await pilot.pause(0.01)
    await pilot.pause(0.3)  # a tick


async def commands(app: CkptDiffApp) -> set[str]:
    return {str(hit.display) async for hit in Commands(app.screen).discover()}  # type: ignore[union-attr]


@pytest.mark.slow
async def test_names_are_there_while_equal_rows_are_looked_for(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.renamed, engine.matching, engine.results = ["odd.name"], threading.Event(), {}
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_matching(app, pilot)
        assert tensors(app).session.phase == "matching"
        said = text(app, "ProgressLine")
        assert said == "No rules: looking for equal rows in 1 of 14 tensors. x stops."
        assert "odd.name" in "\n".join(lines(rows(app)))
        engine.matching.set()
        await settle(app, pilot)
        assert tensors(app).session.names == names()
        said = text(app, "ProgressLine").replace("\n", " ")
        assert said.startswith("= No differences in 14 tensors.")
        assert said.endswith("B: no rule was used: 1 of 1 tensors were found.")


async def test_x_stops_looking_for_equal_rows_and_r_goes_on(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.renamed, engine.matching = ["odd.name"], threading.Event()
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_matching(app, pilot)
        await pilot.press("x")
        await settle(app, pilot)
        assert tensors(app).session.phase == "stopped"
        assert engine.asked == []
        engine.matching.set()
        await pilot.press("r")
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"
        assert tensors(app).session.names == names()


async def test_o_compares_the_optimizer_state_too_and_the_weights_alone_again(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert "compare: optimizer state too" in await commands(app)
        assert "--optimizer" not in tensors(app).session.command_line()
        await pilot.press("o")
        await settle(app, pilot)
        assert len(engine.asked[-1]) == 2 * len(names())
        assert str(rows(app).border_title) == "Tensors  with optimizer state"
        assert tensors(app).session.command_line().split()[-1] == "--optimizer"
        assert "compare: weights alone" in await commands(app)
        await pilot.press("o")
        await settle(app, pilot)
        assert len(engine.asked[-1]) == len(names())
        assert str(rows(app).border_title) == "Tensors"


async def test_the_program_can_be_started_with_the_optimizer(
    make_app: Make, engine: FakeEngine
) -> None:
    app = make_app(A, B, optimizer=True)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert [len(asked) for asked in engine.asked] == [2 * len(names())]


async def test_without_an_optimizer_the_weights_are_compared_and_it_is_said(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.no_optimizer = BadArgument("neither a nor b holds an optimizer state")
    app = make_app(A, B, optimizer=True)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"
        assert toasts(app) == [
            "neither a nor b holds an optimizer state. The weights alone are compared."
        ]
        assert str(rows(app).border_title) == "Tensors"
        assert "--optimizer" not in tensors(app).session.command_line()


async def test_one_checkpoint_and_two_of_hugging_face_have_none_to_compare(
    make_app: Make, engine: FakeEngine
) -> None:
    app = make_app(A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("o")
        assert toasts(app)[-1].startswith("Optimizer: this is one checkpoint")
    app = make_app(A, A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("o")
        assert toasts(app)[-1] == "Optimizer: only Megatron's checkpoints hold any."
        assert "compare: optimizer state too" not in await commands(app)


async def test_results_with_and_without_the_optimizer_are_kept_apart(
    make_app: Make, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptdiff.result_cache.fingerprint", lambda a, b, how: how)
    app = make_app(A, B, history=tmp_path / "kept")
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        for _ in range(3):
            await pilot.press("o")
            await settle(app, pilot)
    assert [len(asked) for asked in engine.asked] == [14, 28]
    assert len(list((tmp_path / "kept").iterdir())) == 2


async def test_master_weights_are_offered_by_their_key(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        assert session.summary is not None
        object.__setattr__(session.summary, "masters", ("B",))
        assert "B holds fp32 master weights: o compares those too." in outcome(session)[1]


async def test_configs_that_were_not_compared_are_said_where_nothing_differs(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.results = {}
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert (
            " The configs were not compared: A has no config.json"
            in outcome(tensors(app).session)[1]
        )


async def test_state_that_belongs_to_no_weight_is_a_row(make_app: Make, engine: FakeEngine) -> None:
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        object.__setattr__(session.inventory, "unmapped", [Unmapped("b", "mp_rank_00: odd", None)])
        session.arrange()
        rows(app).show_rows()
        await pilot.press("G", "enter")
        assert "no name, B" in "\n".join(lines(rows(app)))
        assert "belongs to no known weight: mp_rank_00: odd of B." in toasts(app)[-1]


async def test_the_count_of_differences_never_exceeds_its_total(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.tensors, engine.results = ["one"], {"one": result("one", "differ")}
    engine.unmapped = ("x.weight", "y.weight")
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        said = text(app, "ProgressLine").replace("\n", " ")
        assert said.startswith("! 1 of 1 tensor differs, and 2 names have no rule.")


async def test_what_a_failure_left_undone_is_not_to_do(make_app: Make, engine: FakeEngine) -> None:
    engine.breaks = WorkerDied("a worker was killed. Free some memory.")
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        shown = lines(rows(app))
        assert shown[1].split()[0] == "?"
        assert shown[1].endswith("not compared")
        assert any(line.endswith("? 4 not compared") for line in shown)
        await pilot.press("g", "enter")
        await pilot.pause(0.3)
        assert "? not compared" in text(app, "#detail-title")
        assert "Free some memory" in text(app, "#detail-figures")
        await pilot.press("q")
        engine.breaks = None
        await pilot.press("r")
        await settle(app, pilot)
        session = tensors(app).session
        assert session.phase == "done"
        assert session.counts["undone"] == session.counts["to_do"] == 0


async def test_n_says_when_there_is_no_further_difference(
    make_app: Make, engine: FakeEngine
) -> None:
    engine.results = {"lm_head.weight": result("lm_head.weight", "differ")}
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert rows(app).row == "lm_head.weight"
        assert toasts(app) == []
        await pilot.press("n")
        assert toasts(app) == ["There is no further difference."]
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press("n", "N")
        assert toasts(app) == ["There is no further difference."] * 3


async def test_ascii_help_has_no_arrows(make_app: Make) -> None:
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        shown = "\n".join(line.plain for line in help_lines(app.screen))
        assert shown.isascii()
        assert "left" in shown


@pytest.mark.parametrize("keys", ["w", "ctrl+p"])
async def test_ascii_draws_the_frames_of_what_is_typed_in(make_app: Make, keys: str) -> None:
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press(keys)
        await pilot.pause(0.2)
        shown = "".join(strip.text for strip in app.screen._compositor.render_strips())
        assert shown.replace("commands…", "").isascii()  # the hint is Textual's own


async def test_a_side_that_cannot_be_read_leaves_the_other_not_compared(
    make_app: Make, tmp_path: Path
) -> None:
    app = make_app(A, tmp_path)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert lines(rows(app))[1].split()[0] == "?"
