"""The message in a terminal that is too small."""

from __future__ import annotations

from textual.widget import Widget

from ckptdiff.tui.keymap import key


class TooSmall(Widget):
    """Replaces the screen below 40 columns or 10 lines."""

    def render(self) -> str:
        width, height = self.app.size
        quits = key("app.quit", "Q")
        return f"ckptdiff needs 40x10, this is {width}x{height}. {quits} quits."
