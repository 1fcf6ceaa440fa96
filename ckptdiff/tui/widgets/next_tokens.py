"""The next tokens of both sides, after one position of the prompt or after each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.logits import position_head, position_line, quoted, top_lines
from ckptdiff.tui.widgets.painted import Painted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.events import MouseScrollDown, MouseScrollUp

    from ckptdiff.results import Next
    from ckptdiff.tui.text.lines import Line


class NextTokens(Painted, can_focus=True):
    """The likeliest tokens of both sides after one position, or a line for each position."""

    ALLOW_MAXIMIZE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right,l,down,j", "move(1)", "Next position", id="next.after",
            tooltip="show the position after this one",
        ),
        Binding(
            "left,h,up,k", "move(-1)", "Position before", show=False, id="next.before",
            tooltip="show the position before this one",
        ),
        Binding(
            "g,home", "move(-4096)", "First", show=False, id="next.first",
            tooltip="the first position",
        ),
        Binding(
            "G,end", "move(4096)", "Last", show=False, id="next.last", tooltip="the last position"
        ),
    ]  # fmt: skip

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.at = 0  # index into `_top`
        self.all_positions = False
        self._top: Sequence[Next] = ()
        self._texts: Sequence[str] = ()
        self._ids: Sequence[int] = ()
        self._ascii_only = ascii_only

    def show(self, top: Sequence[Next], ids: Sequence[int], texts: Sequence[str]) -> None:
        """Show the next tokens. A result that was not shown before starts at its last position."""
        if top is not self._top:
            self._top, self._ids, self._texts = top, ids, texts
            self.at = max(0, len(top) - 1)
        self._change()

    def toggle(self) -> None:
        """Switch between one position and all of them."""
        self.all_positions = not self.all_positions
        self._change()

    def action_move(self, step: int) -> None:
        self.at = max(0, min(self.at + step, len(self._top) - 1))
        self._change()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_move(1)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_move(-1)

    def _change(self) -> None:
        if self._top:
            token = self._token(self._top[self.at].position)
            title = "Next tokens" if self.all_positions else f"Next token after {token}"
            self.border_title = Content(title)
            position = f"position {self._top[self.at].position} of 0-{self._top[-1].position}"
            toggled = "the first few" if self.all_positions else "all positions"
            self.border_subtitle = f"{position}, {key('logits.positions', 't')} shows {toggled}"
        self.changed()

    def _token(self, position: int) -> str:
        if position < len(self._texts):
            return quoted(self._texts[position], ascii_only=self._ascii_only)
        return f"id {self._ids[position]}" if position < len(self._ids) else str(position)

    def lines(self, width: int, height: int) -> list[Line]:
        if not self._top:
            return []
        if not self.all_positions:
            return top_lines(self._top[self.at], width, height, ascii_only=self._ascii_only)
        shown = max(1, height - 1)
        first = max(0, min(self.at - shown // 2, len(self._top) - shown))
        lines = [position_head(width)]
        for number, after in enumerate(self._top[first : first + shown], first):
            text = self._token(after.position)
            spans = position_line(after, text, width, ascii_only=self._ascii_only)
            if number == self.at:
                spans = tuple((part, "cursor") for part, _ in spans)
            lines.append(spans)
        return lines
