"""The config table: a line for each setting, with what each side means and the field behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len, set_cell_size
from textual.strip import Strip

from ckptdiff.tui.text.config import GLYPHS, meaning_text, stated_text
from ckptdiff.tui.widgets.cursor_list import LineList
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.segment import Segment

    from ckptdiff.config.compare import ConfigDiff

WIDEST_MEANING = 30  # cells
WITH_FIELDS = 96  # cells from which on the fields have columns of their own
WIDEST_VALUE = 24  # cells, where the fields have columns


def widths(width: int, meanings: int) -> tuple[int, int, int]:
    """Return the cells of the meaning, of each side's value, and of each side's field.

    The longest meaning has `meanings` cells; it gets at most a quarter of the width. Fields get
    none in a narrow table.
    """
    meaning = min(meanings, width // 4)
    each = max(0, (width - meaning - 9) // 2)
    if width < WITH_FIELDS:
        return meaning, each, 0
    value = min(WIDEST_VALUE, each // 3)
    return meaning, value, each - value - 2


def config_cells(row: ConfigDiff, width: int, meanings: int, *, ascii_only: bool) -> list[str]:
    """Return glyph, meaning and both values as one text, and the fields behind them as another."""
    meaning, value, field = widths(width, meanings)

    def fit(text: str, cells: int) -> str:
        return set_cell_size(shorten(text, cells, ascii_only=ascii_only), cells)

    values = [fit(meaning_text(row, side), value) for side in ("a", "b")]
    text = f" {GLYPHS[row.status]}  {fit(row.meaning, meaning)}  {'  '.join(values)}"
    fields = [fit(stated_text(row, side), field) for side in ("a", "b")] if field else []
    rest = "".join(f"  {each}" for each in fields)
    return [text, set_cell_size(rest, max(0, width - cell_len(text)))]


def header_line(width: int, meanings: int) -> str:
    """Return the header of the columns."""
    meaning, value, field = widths(width, meanings)
    head = f" St {'Meaning':<{meaning}}  {'A':<{value}}  {'B':<{value}}"
    return head + (f"  {'field of A':<{field}}  field of B" if field else "")


class ConfigList(LineList["ConfigDiff"]):
    """The config table with a cursor."""

    HEADER = 1
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line-list--field",
        *(f"line-list--{status}" for status in GLYPHS),
    }
    DEFAULT_CSS = """
    ConfigList {
        .line-list--conflict { color: $warning; text-style: bold; }
        .line-list--implied { color: $primary; }
        .line-list--unknown { color: $secondary; }
        .line-list--field { text-style: dim; }
    }
    """

    def show(self, rows: Sequence[ConfigDiff], empty_words: str) -> None:
        longest = max((cell_len(row.meaning) for row in rows), default=0)
        self._meanings = min(WIDEST_MEANING, longest)
        super().show(rows, empty_words)

    def line(self, row: ConfigDiff, width: int) -> str:
        return "".join(config_cells(row, width, self._meanings, ascii_only=self.ascii_only))

    def row_strip(self, row: int, width: int) -> Strip:
        item = self.rows[row]
        cells = config_cells(item, width, self._meanings, ascii_only=self.ascii_only)
        here = row == self.cursor
        segments: list[Segment] = []
        for text, word in zip(cells, (item.status, "field"), strict=True):
            segments += self.text_strip(text, cell_len(text), "cursor" if here else word)
        return Strip(segments).adjust_cell_length(width)

    def header_strip(self, width: int) -> Strip:
        return self.text_strip(header_line(width, self._meanings), width, "header")
