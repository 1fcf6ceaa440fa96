"""The tensor list: a row for each tensor with its result, folded by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.strip import Strip

from ckptdiff.tui.model.stored import HeldFile, StoredRow
from ckptdiff.tui.text.list import empty_words, list_subtitle, list_title
from ckptdiff.tui.widgets.cursor_list import CursorList
from ckptdiff.tui.widgets.file_row import file_cells, file_columns, file_header
from ckptdiff.tui.widgets.tensor_row import columns, header_cells, row_cells

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Row, Session, View
    from ckptdiff.tui.widgets.file_row import FileColumns
    from ckptdiff.tui.widgets.tensor_row import Cells, Columns


class TensorList(CursorList["Row"]):
    """Shows the rows of a session, with a cursor."""

    HEADER = 1  # the names of the columns
    WORDS_AT = 2
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tensor-list--header",
        "tensor-list--cursor",
        "tensor-list--layer",
        "tensor-list--words",
        "tensor-list--same",
        "tensor-list--close",
        "tensor-list--matched",
        "tensor-list--packed",
        "tensor-list--differ",
        "tensor-list--shape",
        "tensor-list--only_a",
        "tensor-list--only_b",
        "tensor-list--to_do",
        "tensor-list--comparing",
        "tensor-list--undone",
        "tensor-list--error",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="list.open", tooltip="show a tensor; fold a layer"),
        *CursorList.BINDINGS,  # repeated here, so that the help lists them after enter
        Binding("h,left", "fold", "Fold", show=False, id="list.fold", tooltip="fold this layer"),
        Binding(
            "l,right", "unfold", "Unfold", show=False, id="list.unfold", tooltip="unfold this layer"
        ),
        Binding(
            "space",
            "toggle_fold",
            "Fold or unfold",
            show=False,
            id="list.toggle",
            tooltip="fold or unfold this layer",
        ),
    ]

    @dataclass
    class RowOpened(Message):
        """Enter was pressed on a row, or it was double-clicked."""

        row: Row

    def __init__(self, session: Session, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.session = session
        self._styles_by_word: dict[str, Style] = {}
        self._last_row: Row | None = None
        self._borders = ("", "")

    # ── rows and borders ─────────────────────────────────────────────────────────────────────

    @property
    def rows(self) -> list[Row]:
        return self.session.listing.rows

    @property
    def name_here(self) -> str | None:
        """The canonical name that the row under the cursor stands for, if any."""
        return self.session.listing.name_of(self.row)

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
                cursor = self._nearest(rows)
        self.rows_changed(cursor)

    def settle(self) -> None:
        """Show what is wrong first, unless the user has moved: called once all is compared."""
        session = self.session
        if self.cursor or self.scroll_offset.y or not session.is_untouched:
            return
        session.settle(self.page)
        self.show_rows()
        first = session.next_difference(None)
        if first is not None and session.is_difference(first):
            self.go_to(first)

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
        self._styles_by_word.clear()
        super().notify_style_update()

    def _style(self, word: str) -> Style:
        style = self._styles_by_word.get(word)
        if style is None:
            style = (
                self.get_component_rich_style(f"tensor-list--{word}") if word else self.rich_style
            )
            self._styles_by_word[word] = style
        return style

    def header_strip(self, width: int) -> Strip:
        if self.session.view == "files":
            header = file_header(self._file_columns(width))
        else:
            header = header_cells(self._columns(width))
        return self._strip(header, width, Style.null())

    def words_strip(self, words: str, width: int) -> Strip:
        return self._strip([(f"  {words}" if words else "", "words")], width, Style.null())

    def row_strip(self, row: int, width: int) -> Strip:
        item = self.rows[row]
        if isinstance(item, (HeldFile, StoredRow)):
            cells = file_cells(self.session, item, self._file_columns(width))
        else:
            cells = row_cells(self.session, item, self._columns(width))
        if row != self.cursor:
            return self._strip(cells, width, Style.null())
        cursor = self._style("cursor")
        if cursor.reverse:  # in 16 colours, a word's own colour may be unreadable on it
            text = "".join(text for text, _ in cells)
            return self._strip([(text, "")], width, Style(bold=True, reverse=True))
        return self._strip(cells, width, Style(bgcolor=cursor.bgcolor, bold=True))

    def _columns(self, width: int) -> Columns:
        session = self.session
        return columns(width, shape=session.inventory.shape_width, browsing=session.browsing)

    def _file_columns(self, width: int) -> FileColumns:
        session = self.session
        return file_columns(width, shape=session.inventory.shape_width, browsing=session.browsing)

    def _strip(self, cells: Cells, width: int, over: Style) -> Strip:
        segments = [Segment(text, self._style(word) + over) for text, word in cells]
        return Strip(segments).adjust_cell_length(width, self._style("") + over)
