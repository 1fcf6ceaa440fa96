"""An input in which a value cannot steer the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import Input

from ckptdiff.text import printable

if TYPE_CHECKING:
    from rich.text import Text


class SeenInput(Input):
    """Draws `?` for each character of its value that cannot be seen; the value is as it is.

    A path may have any characters, and Textual draws those of an input as they are.
    """

    @property
    def _value(self) -> Text:
        shown = super()._value
        if printable(shown.plain) != shown.plain:
            shown.plain = "".join(c if printable(c) == c else "?" for c in shown.plain)
        return shown

    def _position_to_cell(self, position: int) -> int:
        return self._value[:position].cell_len if position else 0
