"""Cells, drawn in the component styles of a widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

if TYPE_CHECKING:
    from textual.widget import Widget

    from ckptdiff.tui.widgets.tensor_row import Cells


class CellStyles:
    """Draws cells for a widget. A word stands for its component class PREFIX--WORD."""

    def __init__(self, widget: Widget, prefix: str) -> None:
        self._widget = widget
        self._prefix = prefix
        self._by_word: dict[str, Style] = {}

    def clear(self) -> None:
        """Look the styles up again."""
        self._by_word.clear()

    def _style(self, word: str) -> Style:
        style = self._by_word.get(word)
        if style is None:
            name = f"{self._prefix}--{word}"
            style = self._widget.get_component_rich_style(name) if word else self._widget.rich_style
            self._by_word[word] = style
        return style

    def strip(self, cells: Cells, width: int, over: Style | None = None) -> Strip:
        """Draw a line of cells."""
        over = over or Style.null()
        segments = [Segment(text, self._style(word) + over) for text, word in cells]
        return Strip(segments).adjust_cell_length(width, self._style("") + over)

    def cursor_strip(self, cells: Cells, width: int) -> Strip:
        """Draw the line under the cursor."""
        cursor = self._style("cursor")
        if cursor.reverse:  # in 16 colours, a word's own colour may be unreadable on it
            text = "".join(text for text, _ in cells)
            return self.strip([(text, "")], width, Style(bold=True, reverse=True))
        return self.strip(cells, width, Style(bgcolor=cursor.bgcolor, bold=True))
