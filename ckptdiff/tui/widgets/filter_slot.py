"""The container under the list that holds the filter line while it is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import work
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Static
from textual.worker import get_current_worker

from ckptdiff.text import printable
from ckptdiff.tui.model.name_search import best_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.widgets import Input

    from ckptdiff.tui.widgets.filter_line import FilterLine

HINT = "words or letters; * is any text; re:PATTERN; ! inverts"


class FilterSlot(Container):
    """Empty before `open`, and again when the line loses the focus."""

    @dataclass
    class Typed(Message):
        """The text of the filter has changed."""

        text: str

    @dataclass
    class Closed(Message):
        """A key has closed the line."""

    @dataclass
    class Ranked(Message):
        """The names that hold the letters of a pattern in order are found, the best first."""

        pattern: str
        names: Sequence[str]
        found: list[str]

    @work(thread=True, exclusive=True, exit_on_error=False, group="ranking")
    def rank(self, pattern: str, names: Sequence[str]) -> None:
        """Look for the letters of a pattern in order; another call ends an earlier one."""
        from ckptdiff.tui.workers.read_compare import without_blocking_the_screen

        worker = get_current_worker()
        with without_blocking_the_screen():
            found = best_first(pattern, names, lambda: worker.is_cancelled)
        if not worker.is_cancelled:
            self.post_message(self.Ranked(pattern, names, found))

    async def open(self, text: str) -> None:
        """Mount the line with this text; if it is open already, focus it."""
        from ckptdiff.tui.widgets.filter_line import FilterLine

        if self.children:
            self.query_one(FilterLine).focus()
            return
        line = FilterLine(text, HINT)
        await self.mount(Horizontal(Static("/", id="slash"), line))
        line.focus()

    def show_error(self, error: str) -> None:
        """Show what is wrong with the filter; "" removes it."""
        self.border_subtitle = Content(printable(error))

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
