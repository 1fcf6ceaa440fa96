"""The message in a terminal that is too small."""

from __future__ import annotations

from textual.widget import Widget


class TooSmall(Widget):
    """Replaces the screen below 60 columns or 16 lines."""

    def render(self) -> str:
        width, height = self.app.size
        return f"ckptdiff needs 60x16, this is {width}x{height}. q quits."
