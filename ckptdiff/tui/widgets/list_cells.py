"""The cells of the main list: of names in one column or in two panes, or of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ckptdiff.tui.model.session import VIEWS
from ckptdiff.tui.model.stored import HeldFile, StoredRow
from ckptdiff.tui.text.list import with_sort_mark
from ckptdiff.tui.widgets.file_row import file_cells, file_columns, file_header
from ckptdiff.tui.widgets.pair_row import PairRows
from ckptdiff.tui.widgets.tensor_row import columns, header_cells, row_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.tui.model.listing import Row
    from ckptdiff.tui.model.own_names import Pane
    from ckptdiff.tui.model.session import Session, View
    from ckptdiff.tui.widgets.file_row import FileColumns
    from ckptdiff.tui.widgets.tensor_row import Cells, Columns


class ListCells:
    """Lays out the lines of the list, in the view that its session is in.

    `wide` tells whether the terminal has room for two panes.
    """

    def __init__(self, session: Session, wide: Callable[[], bool]) -> None:
        self.session = session
        self.pane: Pane = "a"  # the active one of two
        self._wide = wide
        self._panes = PairRows(session)

    # ── panes ────────────────────────────────────────────────────────────────────────────────

    @property
    def _can_have_panes(self) -> bool:
        return self._wide() and self._panes.pair.has_two

    @property
    def has_panes(self) -> bool:
        """Whether both sides are side by side: that is asked for, and there is room."""
        return self.session.view == "both" and self._can_have_panes

    @property
    def are_wide(self) -> bool:
        """Whether the lines need all the width that there is: of two panes, or of files."""
        return self.has_panes or (self.session.view == "files" and self._wide())

    @property
    def next_view(self) -> View:
        """The view after the present one; that of both sides only where it has two panes."""
        view = self.session.view
        views = [each for each in VIEWS if each != "both" or self._can_have_panes]
        at = views.index(view if view in views else "names")
        return views[(at + 1) % len(views)]

    def change_pane(self, step: Literal[1, -1]) -> bool:
        """Go to the other pane; past the last return False, with the pane to come back to."""
        last: Pane = "b" if step > 0 else "a"
        is_further = self.has_panes and self.pane != last
        self.pane = last if is_further else "a" if step > 0 else "b"
        return is_further

    def stored_name(self, row: Row) -> str:
        """Return the name of a row: in two panes as the active side stores it."""
        stored = self._panes.pair.stored_name(self.pane, row) if self.has_panes else None
        return stored or (row if isinstance(row, str) else row.name)

    # ── lines ────────────────────────────────────────────────────────────────────────────────

    def header(self, width: int) -> Cells:
        """Return the names of the columns, those of the active pane lit."""
        if self.has_panes:
            return self._panes.header(self._panes.columns(width), self.pane)
        in_files = self.session.view == "files"
        header = (
            file_header(self._file_columns(width))
            if in_files
            else header_cells(self._columns(width))
        )
        return [(with_sort_mark("".join(text for text, _ in header), self.session), "header")]

    def row(self, at: int, width: int, *, cursor: int, top: int) -> Cells:
        """Return a row, where the cursor and the first row in sight are on these."""
        item = self.session.listing.rows[at]
        if self.has_panes:
            self._panes.at_cursor(cursor, top)
            return self._panes.row(at, self._panes.columns(width))
        if isinstance(item, (HeldFile, StoredRow)):
            return file_cells(self.session, item, self._file_columns(width))
        return row_cells(self.session, item, self._columns(width))

    def words(self, words: str, width: int) -> Cells:
        """Return a line that is no row."""
        if not words and self.has_panes and self.session.listing.rows:
            return self._panes.blank(self._panes.columns(width))
        return [(f"  {words}" if words else "", "words")]

    def _columns(self, width: int) -> Columns:
        session = self.session
        return columns(width, shape=session.inventory.shape_width, browsing=session.browsing)

    def _file_columns(self, width: int) -> FileColumns:
        session = self.session
        return file_columns(width, shape=session.inventory.shape_width, browsing=session.browsing)
