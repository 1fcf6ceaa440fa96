"""The part of the tensors' screen that filters its list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.errors import BadArgument
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.widgets.filter_slot import FilterSlot
from ckptdiff.tui.widgets.tensor_list import TensorList

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Session


class FilteringScreen(BaseScreen[None]):
    """A screen with a tensor list and a filter slot under it."""

    session: Session

    @property
    def rows(self) -> TensorList:
        return self.query_one(TensorList)

    def state_changed(self) -> None:
        """Show the state of the session around the list."""
        raise NotImplementedError

    async def action_filter(self) -> None:
        bang = "!" if self.session.inverted else ""
        await self.query_one(FilterSlot).open(bang + self.session.filter)

    def set_filter(self, text: str) -> None:
        """Filter the list. An invalid expression is reported and changes nothing."""
        slot = self.query_one(FilterSlot)
        try:
            self.session.set_filter(text)
        except BadArgument as error:
            slot.show_error(str(error))
            return
        slot.show_error("")
        self.rank()
        self.rows.show_rows()
        self.state_changed()

    def rank(self) -> None:
        """Look for the letters of the filter in order, if nothing else matches it."""
        if self.session.is_unranked:
            self.query_one(FilterSlot).rank(self.session.filter, self.session.names)

    def on_filter_slot_ranked(self, message: FilterSlot.Ranked) -> None:
        message.stop()
        self.session.set_ranking(message.pattern, message.names, message.found)
        self.rows.show_rows()
        self.rows.action_first()
        self.state_changed()

    def on_filter_slot_typed(self, message: FilterSlot.Typed) -> None:
        message.stop()
        self.set_filter(message.text)

    def on_filter_slot_closed(self, message: FilterSlot.Closed) -> None:
        message.stop()
        self.rows.focus()
