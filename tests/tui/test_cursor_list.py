"""What every list does, whatever its rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual.app import App

from ckptdiff.tui.widgets.cursor_list import LineList

if TYPE_CHECKING:
    from textual.app import ComposeResult

pytestmark = pytest.mark.mostly_slow(one_in=5)

ROWS = 100


class Numbers(LineList[int]):
    """Counts how often it has drawn a row, and keeps which were opened."""

    HEADER = 1

    def __init__(self) -> None:
        super().__init__(ascii_only=True)
        self.drawn: list[int] = []
        self.opened: list[int | None] = []

    def line(self, row: int, width: int) -> str:
        self.drawn.append(row)
        return f"{row:>{width}}"

    def action_open(self) -> None:
        self.opened.append(self.row)


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield Numbers()

    def on_mount(self) -> None:
        self.numbers.show(range(ROWS), "nothing")
        self.numbers.focus()

    @property
    def numbers(self) -> Numbers:
        return self.query_one(Numbers)


async def test_keys_move_the_cursor_and_it_stays_in_sight() -> None:
    app = Shown()
    async with app.run_test(size=(40, 13)) as pilot:  # a border, a header and 10 rows
        rows = app.numbers
        assert rows.page == 10
        for key, cursor, top in (
            ("j", 1, 0),
            ("k", 0, 0),
            ("k", 0, 0),
            ("ctrl+d", 10, 1),
            ("ctrl+u", 0, 0),
            ("G", 99, 90),
            ("up", 98, 90),
            ("home", 0, 0),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert (rows.cursor, rows.row, rows.scroll_offset.y) == (cursor, cursor, top), key


async def test_from_far_away_the_cursor_comes_into_the_middle() -> None:
    app = Shown()
    async with app.run_test(size=(40, 13)) as pilot:
        app.numbers.cursor = 50
        await pilot.pause()
        assert app.numbers.scroll_offset.y == 45


async def test_a_click_moves_the_cursor_and_two_open_the_row() -> None:
    app = Shown()
    async with app.run_test(size=(40, 13)) as pilot:
        rows = app.numbers
        await pilot.click(rows, offset=(5, 5))  # the border, the header, rows 0 to 3
        assert (rows.cursor, rows.opened) == (3, [])
        await pilot.click(rows, offset=(5, 1))  # the header
        assert rows.cursor == 3
        await pilot.double_click(rows, offset=(5, 6))
        assert (rows.cursor, rows.opened) == (4, [4])
        rows.show(range(2), "nothing")
        await pilot.click(rows, offset=(5, 9))  # below the last
        assert rows.cursor == 0


async def test_a_row_is_drawn_again_only_where_the_cursor_was_and_is() -> None:
    app = Shown()
    async with app.run_test(size=(40, 13)) as pilot:
        await pilot.pause()
        app.numbers.drawn.clear()
        await pilot.press("j")
        await pilot.pause()
        assert sorted(set(app.numbers.drawn)) == [0, 1]


async def test_a_list_without_rows_says_why() -> None:
    app = Shown()
    async with app.run_test(size=(40, 13)) as pilot:
        rows = app.numbers
        rows.show((), "nothing")
        await pilot.press("j", "G", "ctrl+d", "enter")
        assert (rows.cursor, rows.row) == (0, None)
        assert [rows.render_line(y).text.strip() for y in range(3)] == ["nothing", "", ""]
