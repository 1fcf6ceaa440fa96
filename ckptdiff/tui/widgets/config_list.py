"""The config table: a line for each setting, with the value and field name of both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len, set_cell_size

from ckptdiff.text import config_value_text, printable
from ckptdiff.tui.widgets.cursor_list import LineList
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.strip import Strip

    from ckptdiff.config.compare import ConfigDiff

GLYPHS = {"conflict": "!", "implied": "~", "same": "=", "unknown": "?"}
WIDEST_MEANING = 30  # cells


def config_line(row: ConfigDiff, width: int, meanings: int, *, ascii_only: bool) -> str:
    """Return glyph, meaning, then value and field name of each side.

    The meaning has `meanings` cells, and at most a quarter of the width.
    """
    meanings = min(meanings, width // 4)
    head = f" {GLYPHS[row.status]}  {_fit(row.meaning, meanings, ascii_only=ascii_only)}  "
    each = (width - len(head) - 2) // 2
    a = _value(row, "a", each, ascii_only=ascii_only)
    b = _value(row, "b", each, ascii_only=ascii_only)
    return set_cell_size(f"{head}{a}  {b}", width)


def header_line(width: int, meanings: int) -> str:
    """Return the header of the columns."""
    meanings = min(meanings, width // 4)
    head = f" St {'Meaning':<{meanings}}  "
    each = (width - len(head) - 2) // 2
    return f"{head}{'A':<{each}}  B"


def _value(row: ConfigDiff, side: str, width: int, *, ascii_only: bool) -> str:
    name, value = (row.name_a, row.a) if side == "a" else (row.name_b, row.b)
    if name is None and value is None:
        return " " * width
    # A value that no field states, a default say, is in brackets.
    text = config_value_text(value) if name is not None else f"({config_value_text(value)})"
    if row.meant is not None:
        # The fields put one meaning in two ways, as `tie` and `untie` do.
        stated = config_value_text(row.meant)
        if name is None:
            text = f"({stated})"
        elif text != stated:
            text, name = stated, f"{name} {text}"
    if name == row.meaning:
        name = None  # the line is called like the field
    values = max(8, width // 3)
    if cell_len(text) > values and name is not None:
        text = shorten(text, values, ascii_only=ascii_only)
    room = width - max(values, cell_len(text)) - 1
    field = shorten(printable(name), room, ascii_only=ascii_only) if name and room > 0 else ""
    return _fit(f"{text:<{values}} {field}", width, ascii_only=ascii_only)


def _fit(text: str, width: int, *, ascii_only: bool) -> str:
    return set_cell_size(shorten(text.rstrip(), width, ascii_only=ascii_only), width)


class ConfigList(LineList["ConfigDiff"]):
    """The config table with a cursor."""

    HEADER = 1
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"line-list--{status}" for status in GLYPHS}
    DEFAULT_CSS = """
    ConfigList {
        .line-list--conflict { color: $warning; text-style: bold; }
        .line-list--implied { color: $primary; }
        .line-list--unknown { color: $secondary; }
    }
    """

    def show(self, rows: Sequence[ConfigDiff], empty_words: str) -> None:
        longest = max((cell_len(row.meaning) for row in rows), default=0)
        self._meanings = min(WIDEST_MEANING, longest)
        super().show(rows, empty_words)

    def line(self, row: ConfigDiff, width: int) -> str:
        return config_line(row, width, self._meanings, ascii_only=self.ascii_only)

    def word(self, row: ConfigDiff) -> str:
        return row.status

    def header_strip(self, width: int) -> Strip:
        return self.text_strip(header_line(width, self._meanings), width, "header")
