"""Lists with a cursor. Only the rows in sight are drawn, so 90,000 cost no more than 20."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from rich.cells import set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckptdiff.tui.widgets.selected import selectable, selected_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import Click
    from textual.selection import Selection

RowT = TypeVar("RowT")


class CursorList(ScrollView, Generic[RowT], can_focus=True):
    """Moves the cursor, scrolls, and caches drawn rows. Subclasses draw a row."""

    HEADER: ClassVar[int] = 0  # lines above the rows that do not scroll: 0 or 1
    WORDS_AT: ClassVar[int] = 0  # the line of `empty_words`
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False, id="list.down", tooltip="one row down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="list.up", tooltip="one row up"),
        Binding("g,home", "first", "First", show=False, id="list.first", tooltip="the first row"),
        Binding("G,end", "last", "Last", show=False, id="list.last", tooltip="the last row"),
        Binding(
            "ctrl+d,pagedown", "page(1)", "Page down", show=False, id="list.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup", "page(-1)", "Page up", show=False, id="list.page_up",
            tooltip="one page up",
        ),
    ]  # fmt: skip

    @dataclass
    class CursorMoved(Message):
        """The cursor is on another row, or on none."""

    cursor = reactive(0, repaint=False)

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.empty_words = ""  # shown while there are no rows
        self._strips: dict[int, Strip] = {}  # drawn rows by number; the header is -1

    # ── for subclasses ───────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def rows(self) -> Sequence[RowT]:
        """The rows of the list."""

    @abstractmethod
    def row_strip(self, row: int, width: int) -> Strip:
        """Draw a row; that of the cursor is highlighted."""

    @abstractmethod
    def words_strip(self, words: str, width: int) -> Strip:
        """Draw a line that is no row: with words, or blank."""

    def header_strip(self, width: int) -> Strip:
        """Draw the header."""
        return self.words_strip("", width)

    async def header_clicked(self, x: int) -> None:
        """Called for a click on column `x` of the header."""

    def window_changed(self) -> None:
        """Called when other rows may be in sight."""

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    @property
    def row(self) -> RowT | None:
        """The row under the cursor; None if the list is empty."""
        rows = self.rows
        return rows[self.cursor] if 0 <= self.cursor < len(rows) else None

    @property
    def page(self) -> int:
        """The number of rows that fit."""
        return max(1, self.scrollable_content_region.height - self.HEADER)

    def rows_changed(self, cursor: int = 0) -> None:
        """Draw the list after its rows have changed, with the cursor on this row."""
        self.virtual_size = Size(1, len(self.rows) + self.HEADER)
        self.redraw()
        if self.validate_cursor(cursor) == self.cursor:
            self.cursor_moved()
        else:
            self.cursor = cursor
        self.window_changed()

    def redraw(self) -> None:
        """Draw every row again."""
        self._strips.clear()
        self.refresh()

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == self.WORDS_AT and not self.rows:
            return self.words_strip(self.empty_words, width)
        row = -1 if y < self.HEADER else y - self.HEADER + self.scroll_offset.y
        if row >= len(self.rows):
            return self.words_strip("", width)
        strip = self._strips.get(row)
        if strip is None or strip.cell_length != width:
            strip = self.header_strip(width) if row < 0 else self.row_strip(row, width)
            self._strips[row] = strip
        return strip if row < 0 else selectable(strip, row + self.HEADER, self)

    # ── selecting text with the mouse ────────────────────────────────────────────────────────

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        """Return the selected text; beyond the list's edges, of the rows in sight alone."""
        top, width = self.scroll_offset.y + self.HEADER, self.scrollable_content_region.width
        in_sight = range(top, min(top + self.page, len(self.rows) + self.HEADER))
        lines = selected_lines(selection, in_sight, last=len(self.rows) + self.HEADER - 1)
        found = ((self.row_strip(line - self.HEADER, width).text, span) for line, span in lines)
        return "\n".join(text[span].rstrip() for text, span in found), "\n"

    def selection_updated(self, selection: Selection | None) -> None:  # noqa: ARG002
        self.refresh()

    # ── the cursor ───────────────────────────────────────────────────────────────────────────

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(len(self.rows) - 1, cursor))

    def watch_cursor(self, old: int, new: int) -> None:
        for row in (old, new):
            self._strips.pop(row, None)
            self.refresh_line(row + self.HEADER)
        self.scroll_to_cursor()
        self.cursor_moved()

    def cursor_moved(self) -> None:
        self.post_message(self.CursorMoved())

    def scroll_to_cursor(self) -> None:
        """Scroll the cursor into sight: to the edge, or from far away to the middle."""
        top, page = self.scroll_offset.y, self.page
        if self.cursor < top:
            far = top - self.cursor > page
            self._scroll(self.cursor - (page // 2 if far else 0))
        elif self.cursor >= top + page:
            far = self.cursor - top > 2 * page
            self._scroll(self.cursor - (page // 2 if far else page - 1))

    def _scroll(self, y: int) -> None:
        # Forced, since a list that has just grown has no scrollbar yet.
        self.scroll_to(y=y, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.window_changed()

    def on_resize(self) -> None:
        self.window_changed()
        self.scroll_to_cursor()

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_first(self) -> None:
        self.cursor = 0

    def action_last(self) -> None:
        self.cursor = len(self.rows) - 1

    def action_page(self, pages: int) -> None:
        self.cursor += pages * self.page

    def action_open(self) -> None:
        """Open the row under the cursor. Subclasses say how."""

    async def on_click(self, event: Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self.text_selection is not None:  # the end of a drag
            return
        if offset.y < self.HEADER:
            await self.header_clicked(offset.x)
            return
        row = offset.y - self.HEADER + self.scroll_offset.y
        if row < len(self.rows):
            self.cursor = row
            if event.chain == 2:
                self.action_open()


class LineList(CursorList[RowT]):
    """A list whose rows are each a text in one style."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line-list--header",
        "line-list--cursor",
        "line-list--empty",
    }
    DEFAULT_CSS = """
    LineList {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        border: solid $foreground 40%;
        border-title-style: bold;
        &:focus { border: solid $primary; }
        .line-list--header { text-style: bold; }
        .line-list--cursor { text-style: reverse; }
    }
    """

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.ascii_only = ascii_only
        self._rows: Sequence[RowT] = ()

    @property
    def rows(self) -> Sequence[RowT]:
        return self._rows

    def show(self, rows: Sequence[RowT], empty_words: str) -> None:
        """Show these rows, with the cursor on the first."""
        self._rows, self.empty_words = rows, empty_words
        self.rows_changed()
        self.scroll_to_cursor()

    @abstractmethod
    def line(self, row: RowT, width: int) -> str:
        """Return the text of a row."""

    def word(self, row: RowT) -> str:  # noqa: ARG002
        """Return the row's component class without `line-list--`, or "" for none."""
        return ""

    def row_strip(self, row: int, width: int) -> Strip:
        item = self.rows[row]
        words = [self.word(item), "cursor" if row == self.cursor else ""]
        return self.text_strip(self.line(item, width), width, *words)

    def words_strip(self, words: str, width: int) -> Strip:
        return self.text_strip(f" {words}" if words else "", width, "empty")

    def text_strip(self, text: str, width: int, *words: str) -> Strip:
        """Draw a text in the styles of these component classes."""
        style = self.rich_style
        for word in filter(None, words):
            style += self.get_component_rich_style(f"line-list--{word}", partial=True)
        return Strip([Segment(set_cell_size(text, width), style)])
