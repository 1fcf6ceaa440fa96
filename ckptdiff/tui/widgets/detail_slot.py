"""The box beside the list that holds the detail pane on a wide terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Container

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Row, Session
    from ckptdiff.tui.widgets.detail_pane import DetailPane

WIDE = 100  # columns


class DetailSlot(Container):
    """Empty until `fill`, after the first frame: importing the pane would delay the list."""

    def __init__(self, session: Session) -> None:
        super().__init__(id="detail")
        self.border_title = "Detail"
        self.border_subtitle = "enter full screen"
        self.pane: DetailPane | None = None
        self._session = session
        self._row: Row | None = None

    def fill(self) -> None:
        """Mount the pane, unless it is there."""
        if self.pane is None:
            from ckptdiff.tui.widgets.detail_pane import DetailPane

            self.pane = DetailPane(self._session)
            self.mount(self.pane)
            self.call_after_refresh(lambda: self.show(self._row))

    @property
    def in_view(self) -> DetailPane | None:
        """The pane, where there is room for it."""
        pane = self.pane
        wide = self.screen.size.width >= WIDE
        return pane if pane is not None and pane.is_mounted and wide else None

    @property
    def can_read(self) -> bool:
        """Whether the pane shows a tensor that is read only after a key."""
        return self.in_view is not None and self.in_view.can_read(self._row)

    def read(self) -> None:
        """Read the tensor in the pane."""
        if self.in_view is not None and isinstance(self._row, str):
            self.in_view.reader.read(self._row)

    def show(self, row: Row | None) -> None:
        """Show a row of the list, or the same one again after its result has changed."""
        self._row = row
        if (pane := self.in_view) is not None:
            pane.show(row)
