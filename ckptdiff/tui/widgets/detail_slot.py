"""The box beside the list that holds the detail pane on a wide terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Container

from ckptdiff.tui.keymap import key

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.widgets.detail_pane import DetailPane

WIDE = 100  # columns


class DetailSlot(Container):
    """Empty until `fill`, after the first frame: importing the pane would delay the list."""

    def __init__(self, session: Session) -> None:
        super().__init__(id="detail")
        self.border_title = "Detail"
        self.border_subtitle = f"{key('list.open', 'enter')} full screen"
        self.pane: DetailPane | None = None
        self._session = session
        self._name: str | None = None

    def fill(self) -> None:
        """Mount the pane, unless it is there."""
        if self.pane is None:
            from ckptdiff.tui.widgets.detail_pane import DetailPane

            self.pane = DetailPane(self._session)
            self.mount(self.pane)
            self.call_after_refresh(lambda: self.show(self._name))

    def show(self, name: str | None) -> None:
        """Show a tensor, or the same one again after its result has changed."""
        self._name = name
        if self.pane is not None and self.pane.is_mounted and self.screen.size.width >= WIDE:
            self.pane.show(name)
