"""The place under the list that the filter's line takes while somebody types in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.containers import Container, Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from ckptdiff.text import printable

if TYPE_CHECKING:
    from textual.widgets import Input

    from ckptdiff.tui.widgets.filter_line import FilterLine


class FilterSlot(Container):
    """Empty until it is opened, and again when the line is left."""

    @dataclass
    class Typed(Message):
        """This is to be filtered by."""

        text: str

    @dataclass
    class Closed(Message):
        """A key has closed the line: back to the list."""

    async def open(self, text: str) -> None:
        """Show the line with the filter that there is, or go to it."""
        from ckptdiff.tui.widgets.filter_line import FilterLine

        if self.children:
            self.query_one(FilterLine).focus()
            return
        line = FilterLine(text)
        await self.mount(Horizontal(Static("/", id="slash"), line))
        line.focus()

    def say(self, trouble: str) -> None:
        """Say what is wrong with an expression; nothing, once it is right."""
        self.border_subtitle = Content(printable(trouble))

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Typed(message.value))

    def on_input_blurred(self, message: Input.Blurred) -> None:
        message.stop()
        self.remove_children()

    def on_filter_line_closed(self, message: FilterLine.Closed) -> None:
        message.stop()
        if message.cleared:
            self.post_message(self.Typed(""))
        self.remove_children()
        self.post_message(self.Closed())
