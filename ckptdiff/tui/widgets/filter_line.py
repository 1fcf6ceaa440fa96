"""The input that `/` opens. The list is filtered while it is typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.tui.widgets.seen_input import SeenInput


class FilterLine(SeenInput):
    """Takes words that must all occur, or `re:` and a regular expression; `!` inverts either."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "keep", "Keep", id="filter.keep", tooltip="keep the filter"),
        Binding("escape", "clear", "Clear", id="filter.clear", tooltip="show all tensors again"),
        Binding("down", "keep", "List", show=False, id="filter.list", tooltip="go to the list"),
    ]

    @dataclass
    class Closed(Message):
        """A key has closed the line; `cleared` if it also clears the filter."""

        cleared: bool

    def __init__(self, text: str, hint: str = "words, or re:PATTERN; ! inverts") -> None:
        super().__init__(text, placeholder=hint, compact=True)
        self.cursor_blink = False

    def action_keep(self) -> None:
        self.post_message(self.Closed(cleared=False))

    def action_clear(self) -> None:
        self.post_message(self.Closed(cleared=True))
