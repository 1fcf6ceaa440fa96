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

from ckptdiff.errors import BadArgument
from ckptdiff.text import printable
from ckptdiff.tui.model.name_search import best_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.widgets import Input

    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.widgets.filter_line import FilterLine

HINT = "words or letters; * is any text; re:PATTERN; ! inverts"


class FilterSlot(Container):
    """Empty before `open`, and again when the line loses the focus."""

    @dataclass
    class Changed(Message):
        """Other names pass the filter; those with its letters come `best_first`."""

        best_first: bool = False

    def __init__(self, session: Session, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.session = session

    def set_filter(self, text: str) -> bool:
        """Filter the session. Return False if nothing is changed: the expression is invalid."""
        try:
            self.session.set_filter(text)
        except BadArgument as error:
            self._say(printable(str(error)))
            return False
        self._say("")
        self.rank()
        return True

    def _say(self, why: str) -> None:
        """Say under the line why its text is no filter; "" takes that back."""
        for line in self.query("#why-no-filter").results(Static):
            line.update(Content(why))
            line.display = bool(why)

    def rank(self) -> None:
        """Look for the letters of the filter in order, if nothing else matches it."""
        if self.session.tensors.is_unranked:
            self._rank(self.session.filter, self.session.names)

    @work(thread=True, exclusive=True, exit_on_error=False, group="ranking")
    def _rank(self, pattern: str, names: Sequence[str]) -> None:
        from ckptdiff.tui.workers.read_compare import without_blocking_the_screen

        worker = get_current_worker()
        with without_blocking_the_screen():
            found = best_first(pattern, names, lambda: worker.is_cancelled)
        if not worker.is_cancelled:
            self.app.call_from_thread(self._ranked, pattern, names, found)

    def _ranked(self, pattern: str, names: Sequence[str], found: list[str]) -> None:
        self.session.tensors.set_ranking(pattern, names, found)
        self.post_message(self.Changed(best_first=True))

    async def open(self) -> None:
        """Mount the line with the filter as it is; if it is open already, focus it."""
        from ckptdiff.tui.widgets.filter_line import FilterLine

        if self.children:
            self.query_one(FilterLine).focus()
            return
        bang = "!" if self.session.inverted else ""
        line = FilterLine(bang + self.session.filter, HINT)
        await self.mount(Horizontal(Static("/", id="slash"), line), Static(id="why-no-filter"))
        self._say("")
        line.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self._typed(message.value)

    def _typed(self, text: str) -> None:
        if self.set_filter(text):
            self.post_message(self.Changed())

    def on_input_blurred(self, message: Input.Blurred) -> None:
        message.stop()
        self.remove_children()

    def on_filter_line_closed(self, message: FilterLine.Closed) -> None:
        message.stop()
        if message.cleared:
            self._typed("")
        self.remove_children()
        self.screen.query_one("#tensors").focus()
