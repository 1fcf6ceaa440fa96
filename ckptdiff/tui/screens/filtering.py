"""The filter of the main screen: a line under the list that shows what matches as it is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from ckptdiff.errors import BadArgument
from ckptdiff.text import printable
from ckptdiff.tui.screens.prompting import PromptingScreen
from ckptdiff.tui.widgets.tensor_list import TensorList

if TYPE_CHECKING:
    from textual.widgets import Input

    from ckptdiff.tui.widgets.filter_line import FilterLine


class FilteringScreen(PromptingScreen):
    """A list that can be filtered."""

    @property
    def list(self) -> TensorList:
        return self.query_one(TensorList)

    async def action_filter(self) -> None:
        from ckptdiff.tui.widgets.filter_line import FilterLine

        slot = self.query_one("#filter")
        if slot.children:
            slot.query_one(FilterLine).focus()
            return
        bang = "!" if self.session.inverted else ""
        line = FilterLine(bang + self.session.filter)
        await slot.mount(Horizontal(Static("/", id="slash"), line))
        line.focus()

    def set_filter(self, text: str) -> None:
        """Show what matches; an expression that is not whole yet changes nothing."""
        try:
            self.session.set_filter(text)
        except BadArgument as error:
            self.query_one("#filter").border_subtitle = Content(printable(str(error)))
            return
        self.query_one("#filter").border_subtitle = ""
        self.list.show_rows()
        self.state_changed()

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.set_filter(message.value)

    def on_filter_line_closed(self, message: FilterLine.Closed) -> None:
        if message.cleared:
            self.set_filter("")
        self.query_one("#filter").remove_children()
        self.list.focus()

    def on_input_blurred(self, message: Input.Blurred) -> None:
        message.stop()
        self.query_one("#filter").remove_children()
