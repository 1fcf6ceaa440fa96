"""The mouse: the wheel scrolls what is under it, a header sorts, and a drag selects text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.events import MouseScrollDown

from ckptdiff.tui.screens.guide import GuideScreen, PageText
from ckptdiff.tui.text.list import sort_at
from ckptdiff.tui.widgets.progress_line import ProgressLine
from ckptdiff.tui.widgets.tensor_list import TensorList
from tests.support.tui.harness import lines, rows, settle, tensors, toasts

if TYPE_CHECKING:
    from textual.pilot import Pilot
    from textual.widget import Widget

    from ckptdiff.tui.app import CkptDiffApp

HEADER = " St Tensor        Shape     max|d|   cos   "


async def drag(
    pilot: Pilot[None], widget: Widget, start: tuple[int, int], end: tuple[int, int]
) -> None:
    """Drag from one place in a widget to another."""
    await pilot.mouse_down(widget, offset=start)
    await pilot.hover(widget, offset=end)
    await pilot.mouse_up(widget, offset=end)
    await pilot.pause()


async def wheel(pilot: Pilot[None], widget: Widget) -> None:
    await pilot._post_mouse_events([MouseScrollDown], widget, offset=(5, 2), button=0)
    await pilot.pause(0.3)


def test_the_column_at_a_place_of_the_header() -> None:
    sorts = [sort_at(HEADER, HEADER.index(name) + 1) for name in ("St", "Tensor", "Shape", "cos")]
    assert sorts == [None, "model", "size", "cos"]
    assert sort_at(HEADER, HEADER.index("max") + 7) == "max"
    assert sort_at(HEADER, 0) is None


async def test_a_click_on_a_header_sorts_and_another_reverses(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        at = lines(rows(app))[0].index("max|d|") + 2
        await pilot.click(TensorList, offset=(at, 1))
        await pilot.pause()
        assert (session.sort, session.reverse) == ("max", False)
        assert "max|d|▼" in lines(rows(app))[0]
        await pilot.click(TensorList, offset=(at, 1))
        await pilot.pause()
        assert (session.sort, session.reverse) == ("max", True)
        assert "max|d|▲" in lines(rows(app))[0]


async def test_a_drag_in_the_list_selects_names_and_ctrl_c_copies_them(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("g")
        shown = lines(rows(app))
        await drag(pilot, rows(app), (5, 2), (20, 3))
        assert rows(app).cursor == 0  # a drag is no click
        assert app.screen.get_selected_text() == f"{shown[1][4:]}\n{shown[2][:20].rstrip()}"
        await pilot.press("ctrl+c")
        assert app.clipboard == f"{shown[1][4:]}\n{shown[2][:20].rstrip()}"
        assert "Sent" in toasts(app)[-1]
        await pilot.press("ctrl+c")
        assert "Nothing is running" in toasts(app)[-1]


async def test_words_and_the_pages_of_the_guide_can_be_selected(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        line = app.screen.query_one(ProgressLine)
        await drag(pilot, line, (1, 0), (10, 0))
        assert app.screen.get_selected_text() == lines(line)[0][:10]
        app.push_screen(GuideScreen("keys"))
        await settle(app, pilot)
        page = app.screen.query_one(PageText)
        assert page.region.width > 70
        await drag(pilot, page, (0, 2), (30, 2))
        selected = app.screen.get_selected_text()
        assert selected
        assert selected == lines(page)[2][: len(selected)]
        await pilot.press("ctrl+c")
        assert app.clipboard == selected


async def test_the_wheel_scrolls_a_list_without_the_focus(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 16)) as pilot:
        await settle(app, pilot)
        await pilot.press("g", "slash")
        await pilot.pause()
        assert app.focused is not rows(app)
        cursor = rows(app).cursor
        await wheel(pilot, rows(app))
        assert rows(app).scroll_offset.y > 0
        assert rows(app).cursor == cursor
