"""The list of what a checkpoint holds beside weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from ckptdiff.text import printable
from ckptdiff.tui.widgets.cursor_list import LineList
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.checkpoint import Entry

# By kind of entry; the kind itself is beside it.
GLYPHS = {"tensor": "#", "value": "-", "opaque": "?", "derived": "~"}


def entry_line(entry: Entry, width: int, names: int, *, ascii_only: bool) -> str:
    """Return glyph, kind, the name in at most `names` cells, and the text shortened to fit."""
    ellipsis = ".." if ascii_only else "…"
    kind = f" {GLYPHS[entry.kind]} {entry.kind:<8}"
    names = min(names, (width - len(kind)) * 3 // 5)
    name = set_cell_size(shorten(printable(entry.name), names, ascii_only=ascii_only), names)
    room = max(0, width - len(kind) - names - 2)
    text = printable(entry.text)
    if cell_len(text) > room:
        text = set_cell_size(text, max(0, room - len(ellipsis))) + ellipsis
    return f"{kind}{name}  {text}"


class EntryList(LineList["Entry"]):
    """The list of entries with a cursor."""

    def show(self, rows: Sequence[Entry], empty_words: str) -> None:
        self._names = max((cell_len(entry.name) for entry in rows), default=0)
        super().show(rows, empty_words)

    def line(self, row: Entry, width: int) -> str:
        return entry_line(row, width, self._names, ascii_only=self.ascii_only)
