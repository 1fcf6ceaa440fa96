"""A long list of one-line entries: only the lines on the screen are drawn."""

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

from ckptdiff.text import printable
from ckptdiff.tui.text.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import Click

    from ckptdiff.checkpoint import Entry

# The glyph carries the meaning, and the word beside it says it.
GLYPHS = {"tensor": "#", "value": "=", "opaque": "?", "derived": "~"}
LAST = 1 << 40


def entry_line(entry: Entry, width: int, names: int, *, ascii_only: bool) -> str:
    """Return the kind, the name in a column of `names` cells, and what fits of the text."""
    mark = ".." if ascii_only else "…"
    kind = f" {GLYPHS[entry.kind]} {entry.kind:<8}"
    names = min(names, (width - len(kind)) * 3 // 5)
    name = set_cell_size(shorten(printable(entry.name), names, ascii_only=ascii_only), names)
    room = max(0, width - len(kind) - names - 2)
    text = printable(entry.text)
    if cell_len(text) > room:
        text = set_cell_size(text, max(0, room - len(mark))) + mark
    return f"{kind}{name}  {text}"


class EntryList(ScrollView, can_focus=True):
    """The entries with a cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"entry-list--cursor", "entry-list--empty"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False, id="entries.down", tooltip="one row down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="entries.up", tooltip="one row up"),
        Binding(
            "g,home", "go(0)", "First", show=False, id="entries.first", tooltip="the first row"
        ),
        Binding("G,end", "last", "Last", show=False, id="entries.last", tooltip="the last row"),
        Binding(
            "ctrl+d,pagedown",
            "page(1)",
            "Page down",
            show=False,
            id="entries.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup",
            "page(-1)",
            "Page up",
            show=False,
            id="entries.page_up",
            tooltip="one page up",
        ),
    ]
    DEFAULT_CSS = """
    EntryList {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        border: solid $foreground 40%;
        border-title-style: bold;
        &:focus { border: solid $primary; }
        .entry-list--cursor { text-style: reverse; }
        .entry-list--empty { text-style: dim; }
    }
    """

    @dataclass
    class CursorMoved(Message):
        """The cursor stands on another entry, or on none."""

        entry: Entry | None

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.entries: Sequence[Entry] = ()
        self.cursor = 0
        self.empty_words = ""
        self._ascii_only = ascii_only
        self._names = 0  # cells of the longest name

    @property
    def entry(self) -> Entry | None:
        """What the cursor stands on."""
        return self.entries[self.cursor] if self.cursor < len(self.entries) else None

    def show(self, entries: Sequence[Entry], empty_words: str) -> None:
        """Show these entries, with the cursor on the first."""
        self.entries, self.empty_words = entries, empty_words
        self._names = max((cell_len(entry.name) for entry in entries), default=0)
        self.virtual_size = Size(1, len(entries))
        self.action_go(0)

    def action_go(self, row: int) -> None:
        self.cursor = max(0, min(row, len(self.entries) - 1))
        top, height = round(self.scroll_offset.y), max(1, self.content_size.height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
        self.refresh()
        self.post_message(self.CursorMoved(self.entry))

    def action_move(self, rows: int) -> None:
        self.action_go(self.cursor + rows)

    def action_last(self) -> None:
        self.action_go(LAST)

    def action_page(self, pages: int) -> None:
        self.action_go(self.cursor + pages * max(1, self.content_size.height))

    def on_click(self, event: Click) -> None:
        place = event.get_content_offset(self)
        if place is not None:
            self.action_go(round(self.scroll_offset.y) + place.y)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        row = round(self.scroll_offset.y) + y
        style = self.rich_style
        if row >= len(self.entries):
            words = f" {self.empty_words}" if y == 0 and not self.entries else ""
            style += self.get_component_rich_style("entry-list--empty", partial=True)
            return Strip([Segment(set_cell_size(words, width), style)])
        if row == self.cursor:
            style += self.get_component_rich_style("entry-list--cursor", partial=True)
        text = entry_line(self.entries[row], width, self._names, ascii_only=self._ascii_only)
        return Strip([Segment(set_cell_size(text, width), style)])
