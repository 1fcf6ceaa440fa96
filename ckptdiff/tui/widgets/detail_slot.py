"""The box beside the list that holds the detail pane on a wide terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Container

from ckptdiff.tui.keymap import key

if TYPE_CHECKING:
    from ckptdiff.tui.model.listing import Row
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.widgets.detail_pane import DetailPane

WIDE = 100  # columns of the terminal from which the pane is shown
BESIDE_BOTH = 170  # columns from which it stands beside two panes; with fewer it lies below
TALL = 30  # lines from which it can


class DetailSlot(Container):
    """Empty until `fill`, after the first frame: importing the pane would delay the list."""

    def __init__(self, session: Session) -> None:
        super().__init__(id="detail")
        self.border_title = "Detail"
        self.border_subtitle = f"{key('list.open', 'enter')} full screen"
        self.pane: DetailPane | None = None
        self._session = session
        self.number: int | None = None  # of the finding that the pane shows, if it is there
        self._row: Row | None = None
        self._low = False  # below the list, wide and not tall

    def _place(self, *, wide_list: bool) -> None:
        """Lie below a list of two panes or of files where the terminal has no width for both."""
        width, height = self.screen.size
        low = wide_list and width < BESIDE_BOTH
        self._low = low
        if self.pane is not None:
            self.pane.set_class(low, "-low")
        self.set_class(low and height < TALL, "-hidden")
        if self.parent is not None:
            self.parent.set_class(low, "-stacked")

    def fill(self) -> None:
        """Mount the pane, unless it is there."""
        if self.pane is None:
            from ckptdiff.tui.widgets.detail_pane import DetailPane

            self.pane = DetailPane(self._session)
            self.pane.set_class(self._low, "-low")
            self.mount(self.pane)
            self.call_after_refresh(self._draw)

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

    def show(self, row: Row | None, number: int | None, *, wide_list: bool) -> None:
        """Show a row of the list and the finding of this number, or both again once changed."""
        self._place(wide_list=wide_list)
        self._row, self.number = row, number
        self._draw()

    def _draw(self) -> None:
        if (pane := self.in_view) is not None:
            pane.show(self._row, self.number)
