"""How tests wait for an app and look at it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from textual.widgets import DirectoryTree, Static

from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.widgets.cursor_list import CursorList
from ckptdiff.tui.widgets.detail_slot import WIDE, DetailSlot
from ckptdiff.tui.widgets.tensor_list import TensorList

if TYPE_CHECKING:
    from textual.app import App
    from textual.pilot import Pilot
    from textual.widget import Widget

    from ckptdiff.tui.app import CkptDiffApp


NOW = 1_764_000_000.0  # what the wall clock of these tests says


async def settle(app: App[None], pilot: Pilot[None]) -> None:
    """Wait until the workers have nothing to do and what they said is shown."""
    for _ in range(3):
        await pilot.pause()
        # A directory tree's own worker waits for orders as long as there is a tree.
        while any(w.is_running for w in app.workers if not isinstance(w.node, DirectoryTree)):
            await asyncio.sleep(0.005)
    await pilot.pause()


async def until_compared(app: CkptDiffApp, pilot: Pilot[None], count: int) -> None:
    """Wait until this many results are on the screen while the comparison is held up."""
    while tensors(app).session.compared < count:
        await pilot.pause(0.01)
    await pilot.pause()


async def until_planned(pilot: Pilot[None]) -> None:
    """Wait for the plan that belongs to what the fields of the dialog say."""
    screen = pilot.app.screen
    assert isinstance(screen, ConvertScreen)
    while screen.plan is None:
        await pilot.pause(0.02)
    await pilot.pause()


async def open_form(app: CkptDiffApp, pilot: Pilot[None]) -> ConvertScreen:
    """Open the form of a conversion, and wait for its first plan."""
    await settle(app, pilot)
    await pilot.press("g", "c")  # at the top no finding covers the row
    await until_planned(pilot)
    assert isinstance(app.screen, ConvertScreen)
    return app.screen


async def choose(pilot: Pilot[None], name: str, *keys: str) -> None:
    """Press keys in a field of the form, and wait for the plan that follows."""
    pilot.app.screen.query_one(f"#{name}").focus()
    await pilot.press(*keys)
    await until_planned(pilot)


async def until_drawn(pilot: Pilot[None]) -> None:
    """Wait until the pane of a wide screen shows the tensor under the cursor."""
    screen = tensors(pilot.app)
    while screen.size.width >= WIDE:
        pane = screen.query_one(DetailSlot).pane
        if pane is not None and not pane._pending and pane._shown is not None and pane._shown[0]:
            return
        await pilot.pause(0.02)


def tensors(app: App[None]) -> TensorsScreen:
    """Return the main screen, wherever it is in the stack."""
    return next(screen for screen in app.screen_stack if isinstance(screen, TensorsScreen))


def rows(app: App[None]) -> TensorList:
    return tensors(app).query_one(TensorList)


def lines(widget: Widget) -> list[str]:
    """Return the text that a widget shows, without blanks at the end of its lines."""
    if isinstance(widget, CursorList):
        strips = [widget.render_line(y) for y in range(widget.scrollable_content_region.height)]
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]
    return str(widget.render()).splitlines()


def text(app: App[None], selector: str) -> str:
    return "\n".join(lines(app.screen.query_one(selector)))


def toasts(app: App[None]) -> list[str]:
    """Return what was said in toasts, the latest last."""
    return [notification.message for notification in app._notifications]


def static(app: App[None], selector: str) -> str:
    return str(app.screen.query_one(selector, Static).content)
