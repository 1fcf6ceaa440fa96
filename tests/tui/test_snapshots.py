"""A few pictures of whole screens, for what only the eye sees. Look before updating them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual.widgets import Input

from ckptdiff.settings import RecentPair, Settings, save_settings
from tests.support.tui.fakes import A, B, FakeEngine
from tests.support.tui.harness import NOW, settle, until_compared, until_drawn, until_planned
from tests.support.tui.logits_made import PROMPT, SHARES, clean, faulty, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]
    Compare = Callable[..., bool]

pytestmark = pytest.mark.mostly_slow(one_in=12)
NARROW, WIDE = (80, 24), (120, 40)


def after(*keys: str) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Press keys once everything is compared."""

    async def run(pilot: Pilot[None]) -> None:
        await settle(pilot.app, pilot)
        await pilot.press(*keys)
        await settle(pilot.app, pilot)
        await pilot.pause(0.15)  # the detail pane waits for the cursor to come to rest

    return run


@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [
        ("list", NARROW, ("n",)),
        ("list-with-detail", WIDE, ("n",)),
        ("differences-only-sorted", NARROW, ("d", "s")),
        ("nothing-matches", NARROW, ("slash", *"qproj")),
        ("help", NARROW, ("question_mark",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_comparison_that_is_complete(
    snap_compare: Compare, make_app: Make, name: str, size: tuple[int, int], keys: tuple[str, ...]
) -> None:
    assert snap_compare(make_app(A, B), terminal_size=size, run_before=after(*keys))


def test_a_comparison_under_way(snap_compare: Compare, make_app: Make, engine: FakeEngine) -> None:
    engine.hold = 6
    app = make_app(A, B)

    async def run(pilot: Pilot[None]) -> None:
        await until_compared(app, pilot, 6)
        engine.clock.at += 2
        await pilot.pause(0.3)
        pilot.app.screen.state_changed()  # type: ignore[attr-defined]
        await pilot.pause()

    assert snap_compare(app, terminal_size=NARROW, run_before=run)


def test_one_checkpoint_in_ascii(snap_compare: Compare, make_app: Make) -> None:
    app = make_app(A, ascii_only=True)
    assert snap_compare(app, terminal_size=NARROW, run_before=after("j", "j"))


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_what_is_to_be_converted(
    snap_compare: Compare,
    make_app: Make,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    side: str,
) -> None:
    monkeypatch.setattr("ckptdiff.conversion.destination.free_bytes", lambda out: 212_000_000_000)
    keys = ("c", "k", "h") if side == "a" else ("c",)

    async def run(pilot: Pilot[None]) -> None:
        await after()(pilot)
        await until_drawn(pilot)
        await after(*keys)(pilot)
        await until_planned(pilot)

    assert snap_compare(make_app(A, B), terminal_size=size, run_before=run)


@pytest.mark.slow
@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "hidden"])
def test_a_conversion_under_way(
    snap_compare: Compare,
    make_app: Make,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    hidden: bool,
) -> None:
    monkeypatch.setattr("ckptdiff.conversion.destination.free_bytes", lambda out: 212_000_000_000)
    engine.seconds_each = 0.0004
    app = make_app(A, B)

    async def run(pilot: Pilot[None]) -> None:
        await after()(pilot)
        await until_drawn(pilot)
        await after("c")(pilot)
        await until_planned(pilot)
        engine.hold = 0
        await pilot.press("enter", "y")
        while app.conversion is None or not app.conversion.file:
            await pilot.pause(0.02)
        await pilot.pause(0.3)
        if hidden:
            await pilot.press("escape")
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=run)


@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [("fault", NARROW, ()), ("attribution", WIDE, ("a", "t"))],
    ids=["fault", "attribution"],
)
def test_the_logits_of_a_prompt(
    snap_compare: Compare,
    make_app: Make,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    size: tuple[int, int],
    keys: tuple[str, ...],
) -> None:
    engine.steps = steps(faulty() if name == "fault" else clean(attribution=SHARES))
    monkeypatch.setattr(engine, "read_prompt", lambda *_: PROMPT)

    async def run(pilot: Pilot[None]) -> None:
        await after("p")(pilot)
        await after(*"France", "enter")(pilot)
        for key in keys:
            await after(key)(pilot)

    assert snap_compare(make_app(A, B), terminal_size=size, run_before=run)


def test_the_open_screen(snap_compare: Compare, make_app: Make, tmp_path: Path) -> None:
    pairs = (
        RecentPair("/ckpt/8b-hf", "/scratch/run7/iter_0001000", "differ", 64, NOW - 7200),
        RecentPair("/ckpt/8b-hf", "/scratch/run7/iter_0000500", "same", 0, NOW - 90_000),
        RecentPair("/ckpt/qwen2-7b-hf", "/scratch/mg_qwen_tp2", "close", 0, NOW - 260_000),
    )
    save_settings(Settings(recent=pairs), tmp_path / "config" / "settings.json")
    app = make_app()

    async def run(pilot: Pilot[None]) -> None:
        await pilot.pause()
        for field, path in (("#a", A), ("#b", "/ckpt/nothing")):
            app.screen.query_one(field, Input).value = str(path)
        await pilot.pause(0.4)
        await settle(app, pilot)

    assert snap_compare(app, terminal_size=NARROW, run_before=run)
