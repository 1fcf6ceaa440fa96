"""The config table: a meaning a line, the values of both sides and the fields that say them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckptdiff.report.diff import config_value_text
from ckptdiff.text import printable
from ckptdiff.tui.text.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import Click

    from ckptdiff.config.compare import ConfigDiff

GLYPHS = {"conflict": "!", "implied": "~", "same": "=", "unknown": "?"}
LAST = 1 << 40
WIDEST_MEANING = 30


def config_line(row: ConfigDiff, width: int, meanings: int, *, ascii_only: bool) -> str:
    """Return glyph, meaning in `meanings` cells, then value and field of each side."""
    meanings = min(meanings, width // 4)
    head = f" {GLYPHS[row.status]}  {_fit(row.meaning, meanings, ascii_only=ascii_only)}  "
    each = (width - len(head) - 2) // 2
    a = _value(row, "a", each, ascii_only=ascii_only)
    b = _value(row, "b", each, ascii_only=ascii_only)
    return set_cell_size(f"{head}{a}  {b}", width)


def header_line(width: int, meanings: int) -> str:
    """Return what stands above the columns."""
    meanings = min(meanings, width // 4)
    head = f" St {'Meaning':<{meanings}}  "
    each = (width - len(head) - 2) // 2
    return f"{head}{'A':<{each}}  B"


def _value(row: ConfigDiff, side: str, width: int, *, ascii_only: bool) -> str:
    name, value = (row.name_a, row.a) if side == "a" else (row.name_b, row.b)
    if name is None and value is None:
        return " " * width
    # What no field says stands in brackets.
    text = config_value_text(value) if name is not None else f"({config_value_text(value)})"
    values = max(8, width // 3)
    if cell_len(text) > values and name is not None:
        text = shorten(text, values, ascii_only=ascii_only)
    room = width - max(values, cell_len(text)) - 1
    field = shorten(printable(name), room, ascii_only=ascii_only) if name and room > 0 else ""
    return _fit(f"{text:<{values}} {field}", width, ascii_only=ascii_only)


def _fit(text: str, width: int, *, ascii_only: bool) -> str:
    return set_cell_size(shorten(text.rstrip(), width, ascii_only=ascii_only), width)


class ConfigList(ScrollView, can_focus=True):
    """The lines of the table with a cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "config-list--header",
        "config-list--cursor",
        "config-list--conflict",
        "config-list--implied",
        "config-list--same",
        "config-list--unknown",
        "config-list--empty",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False, id="config.down", tooltip="one row down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="config.up", tooltip="one row up"),
        Binding("g,home", "go(0)", "First", show=False, id="config.first", tooltip="first row"),
        Binding("G,end", "last", "Last", show=False, id="config.last", tooltip="last row"),
        Binding(
            "ctrl+d,pagedown",
            "page(1)",
            "Page down",
            show=False,
            id="config.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup",
            "page(-1)",
            "Page up",
            show=False,
            id="config.page_up",
            tooltip="one page up",
        ),
    ]
    DEFAULT_CSS = """
    ConfigList {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        border: solid $foreground 40%;
        border-title-style: bold;
        &:focus { border: solid $primary; }
        .config-list--header { text-style: bold; }
        .config-list--cursor { text-style: reverse; }
        .config-list--conflict { color: $warning; text-style: bold; }
        .config-list--implied { color: $primary; }
        .config-list--same { text-style: dim; }
        .config-list--unknown { color: $secondary; }
        .config-list--empty { text-style: dim; }
    }
    """

    @dataclass
    class CursorMoved(Message):
        """The cursor stands on another line, or on none."""

        row: ConfigDiff | None

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.rows: Sequence[ConfigDiff] = ()
        self.cursor = 0
        self.empty_words = ""
        self._ascii_only = ascii_only
        self._meanings = 0  # cells of the longest meaning

    @property
    def row(self) -> ConfigDiff | None:
        """What the cursor stands on."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def show(self, rows: Sequence[ConfigDiff], empty_words: str) -> None:
        """Show these lines, with the cursor on the first."""
        self.rows, self.empty_words = rows, empty_words
        longest = max((cell_len(row.meaning) for row in rows), default=0)
        self._meanings = min(WIDEST_MEANING, longest)
        self.virtual_size = Size(1, len(rows) + 1)
        self.action_go(0)

    def action_go(self, row: int) -> None:
        self.cursor = max(0, min(row, len(self.rows) - 1))
        # The header keeps its place, so a row less is to be seen.
        top, height = round(self.scroll_offset.y), max(1, self.content_size.height - 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
        self.refresh()
        self.post_message(self.CursorMoved(self.row))

    def action_move(self, rows: int) -> None:
        self.action_go(self.cursor + rows)

    def action_last(self) -> None:
        self.action_go(LAST)

    def action_page(self, pages: int) -> None:
        self.action_go(self.cursor + pages * max(1, self.content_size.height - 1))

    def on_click(self, event: Click) -> None:
        place = event.get_content_offset(self)
        if place is not None and place.y > 0:
            self.action_go(round(self.scroll_offset.y) + place.y - 1)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        style = self.rich_style
        if y == 0 and self.rows:
            style += self.get_component_rich_style("config-list--header", partial=True)
            return Strip([Segment(set_cell_size(header_line(width, self._meanings), width), style)])
        number = round(self.scroll_offset.y) + y - 1
        if number >= len(self.rows) or number < 0:
            words = f" {self.empty_words}" if y == 0 and not self.rows else ""
            style += self.get_component_rich_style("config-list--empty", partial=True)
            return Strip([Segment(set_cell_size(words, width), style)])
        row = self.rows[number]
        style += self.get_component_rich_style(f"config-list--{row.status}", partial=True)
        if number == self.cursor:
            style += self.get_component_rich_style("config-list--cursor", partial=True)
        text = config_line(row, width, self._meanings, ascii_only=self._ascii_only)
        return Strip([Segment(set_cell_size(text, width), style)])
