"""The tensor list: a row for each tensor with its result, folded by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from ckptdiff.tui.model.comparison import URGENCY
from ckptdiff.tui.text.list import empty_words, list_subtitle, list_title, sort_at
from ckptdiff.tui.widgets.cell_styles import CellStyles
from ckptdiff.tui.widgets.cursor_list import CursorList
from ckptdiff.tui.widgets.list_cells import ListCells
from ckptdiff.tui.widgets.pair_columns import TWO_PANES

if TYPE_CHECKING:
    from textual.strip import Strip

    from ckptdiff.tui.model.listing import Row
    from ckptdiff.tui.model.session import Session, View

STYLED = ("header", "active", "cursor", "line", "bracket", "dim", "layer", "words", *URGENCY)


class TensorList(CursorList["Row"]):
    """Shows the rows of a session, with a cursor."""

    HEADER = 1  # the names of the columns
    WORDS_AT = 2
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tensor-list--{word}" for word in STYLED}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="list.open", tooltip="show a tensor; fold a layer"),
        *CursorList.BINDINGS,  # repeated here, so that the help lists them after enter
        Binding("h,left", "fold", "Fold", show=False, id="list.fold", tooltip="fold this layer"),
        Binding(
            "l,right", "unfold", "Unfold", show=False, id="list.unfold", tooltip="unfold this layer"
        ),
        Binding(
            "space", "toggle_fold", "Fold or unfold", show=False, id="list.toggle",
            tooltip="fold or unfold this layer",
        ),
        Binding(
            "tab", "pane(1)", "Other side", show=False, id="list.pane",
            tooltip="between two panes: to the other side, whose name y copies",
        ),
        Binding(
            "shift+tab", "pane(-1)", "Other side", show=False, id="list.pane_back",
            tooltip="back to the side before",
        ),
    ]  # fmt: skip

    @dataclass
    class RowOpened(Message):
        """Enter was pressed on a row, or it was double-clicked."""

        row: Row

    def __init__(self, session: Session, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.session = session
        self.cells = ListCells(session, lambda: self.app.size.width >= TWO_PANES)
        self._styles = CellStyles(self, "tensor-list")
        self._last_row: Row | None = None
        self._hidden: tuple[Row, Row] | None = None  # the row that was lost, and the one instead
        self._borders = ("", "")

    # ── rows and borders ─────────────────────────────────────────────────────────────────────

    @property
    def rows(self) -> list[Row]:
        return self.session.listing.rows

    @property
    def name_here(self) -> str | None:
        """The canonical name that the row under the cursor stands for, if any."""
        return self.session.listing.name_of(self.row)

    def action_pane(self, step: Literal[1, -1]) -> None:
        """Go to the other pane; past the last, to what else can have the focus."""
        if not self.cells.change_pane(step):
            (self.screen.focus_next if step > 0 else self.screen.focus_previous)()
        self.redraw()

    def show_rows(self, *, are_new: bool = False) -> None:
        """Draw the session's rows again. The cursor stays on its row, or else goes near it.

        On the first of rows that `are_new`, other names than before, it stays at the top.
        """
        rows, cursor = self.rows, self.cursor
        if (
            self._last_row is not None
            and (cursor or not are_new)
            and not (cursor < len(rows) and rows[cursor] is self._last_row)
        ):
            try:
                cursor = rows.index(self._last_row)
            except ValueError:
                hidden, cursor = self._last_row, self._nearest(rows)
                self._hidden = (hidden, rows[cursor]) if cursor < len(rows) else None
        self.rows_changed(cursor)

    def settle(self) -> None:
        """Show what is wrong first, unless the user has moved: called once all is compared."""
        session = self.session
        hidden = self._hidden  # compared once more, if the cursor is still where that left it
        is_again = hidden is not None and hidden[1] == self.row
        if not is_again and (self.cursor or self.scroll_offset.y):
            return
        is_settled = session.tensors.settle(self.page)
        if is_settled:
            self.show_rows()
        if is_again and hidden is not None:
            self.go_to(hidden[0])
            return
        if is_settled:
            first = session.tensors.next_difference(None)
            if first is not None and session.is_difference(first):
                self.go_to(first)
        session.began_at = self.row

    def show_view(self, view: View) -> None:
        """Show the list in another way, with the cursor on what is under it now."""
        name = self.name_here
        self.session.show_view(view)
        self._last_row = None
        self.rows_changed(0)
        if name is not None:
            self.go_to(name)

    def show_borders(self) -> None:
        """Show in the borders what the list holds, and in an empty list why it is empty."""
        session = self.session
        borders = list_title(session), list_subtitle(session, self.cursor)
        if borders != self._borders:  # setting one draws the whole list
            self._borders = borders
            self.border_title, self.border_subtitle = map(Content, borders)
        words = empty_words(session)
        if words != self.empty_words:
            self.empty_words = words
            self.refresh()

    def _nearest(self, rows: list[Row]) -> int:
        """Return where the cursor goes when its row is gone: to its layer's heading, or nowhere."""
        heading = self.session.listing.heading_of(self._last_row)
        if heading is not None and heading in rows:
            return rows.index(heading)
        return self.cursor

    def go_to(self, target: Row) -> bool:
        """Move the cursor to a row and unfold its heading. Return False if the filter hides it."""
        rows = len(self.rows)
        index = self.session.listing.reveal(target)
        if index is None:
            return False
        if len(self.rows) != rows:
            self.rows_changed(index)
        else:
            self.cursor = index
            self.cursor_moved()
        return True

    def go_to_next(self, step: Literal[1, -1]) -> bool:
        """Move the cursor to the next row that differs. Return False if there is no other."""
        row = self.session.listing.next_difference(self.row, step)
        if row is None or row == self.row:
            return False
        return self.go_to(row)

    def window_changed(self) -> None:
        top = self.scroll_offset.y
        rows = self.rows[top : top + self.page]
        self.session.visible = self.session.listing.in_sight(rows)

    def cursor_moved(self) -> None:
        self._last_row = self.row
        super().cursor_moved()

    def action_open(self) -> None:
        row = self.row
        if row is not None and self.session.listing.heading_of(row) is row:
            self.action_toggle_fold()
        elif row is not None:
            self.post_message(self.RowOpened(row))

    # ── folds ────────────────────────────────────────────────────────────────────────────────

    def action_fold(self) -> None:
        """Fold the layer of this row, with the cursor on its heading."""
        listing = self.session.listing
        heading = listing.heading_of(self.row)
        if heading is not None and listing.is_unfolded(heading):
            listing.fold(heading, unfolded=False)
            self._last_row = heading
            self.show_rows()

    def action_unfold(self) -> None:
        listing = self.session.listing
        heading = listing.heading_of(self.row)
        if heading is not None and not listing.is_unfolded(heading):
            listing.fold(heading, unfolded=True)
            self.show_rows()
        elif heading is not None and heading is self.row:
            self.action_move(1)

    def fold_all(self, *, unfolded: bool) -> None:
        self.session.listing.fold_all(unfolded=unfolded)
        self.show_rows()
        self.show_borders()

    def action_toggle_fold(self) -> None:
        listing = self.session.listing
        heading = listing.heading_of(self.row)
        if heading is not None:
            (self.action_fold if listing.is_unfolded(heading) else self.action_unfold)()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    def header_strip(self, width: int) -> Strip:
        return self._styles.strip(self.cells.header(width), width)

    async def header_clicked(self, x: int) -> None:
        header = self.cells.header(self.scrollable_content_region.width)
        sort = sort_at("".join(text for text, _ in header), x)
        if sort is not None:
            await self.app.run_action(f"sort_by('{sort}')", self.screen)

    def words_strip(self, words: str, width: int) -> Strip:
        return self._styles.strip(self.cells.words(words, width), width)

    def row_strip(self, row: int, width: int) -> Strip:
        cells = self.cells.row(row, width, cursor=self.cursor, top=self.scroll_offset.y)
        draw = self._styles.cursor_strip if row == self.cursor else self._styles.strip
        return draw(cells, width)
