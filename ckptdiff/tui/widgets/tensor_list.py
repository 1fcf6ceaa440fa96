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
from ckptdiff.tui.text.list import empty_words, list_subtitle, list_title, sort_at, with_sort_mark
from ckptdiff.tui.widgets.cursor_list import CursorList
from ckptdiff.tui.widgets.file_row import file_cells, file_columns, file_header
from ckptdiff.tui.widgets.pair_columns import TWO_PANES
from ckptdiff.tui.widgets.pair_row import PairRows
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
        "tensor-list--active",
        "tensor-list--cursor",
        "tensor-list--line",
        "tensor-list--bracket",
        "tensor-list--dim",
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
        self._styles_by_word: dict[str, Style] = {}
        self._last_row: Row | None = None
        self._borders = ("", "")
        self.pane: Literal["a", "b"] = "a"  # the active one of two
        self._pair = PairRows(session)

    # ── rows and borders ─────────────────────────────────────────────────────────────────────

    @property
    def rows(self) -> list[Row]:
        return self.session.listing.rows

    @property
    def name_here(self) -> str | None:
        """The canonical name that the row under the cursor stands for, if any."""
        return self.session.listing.name_of(self.row)

    @property
    def has_panes(self) -> bool:
        """Whether both sides are side by side: that is asked for, and there is room."""
        wide = self.app.size.width >= TWO_PANES
        return wide and self.session.view == "both" and self._pair.pair.has_two

    @property
    def copied_name(self) -> str | None:
        """The name that is copied: in two panes as the active side stores it."""
        row = self.row
        if row is None:
            return None
        stored = self._pair.pair.stored_name(self.pane, row) if self.has_panes else None
        return stored or (row if isinstance(row, str) else row.name)

    def action_pane(self, step: Literal[1, -1]) -> None:
        """Go to the other pane; past the last, to what else can have the focus."""
        if self.has_panes and self.pane == ("a" if step > 0 else "b"):
            self.pane = "b" if step > 0 else "a"
        else:
            self.pane = "a" if step > 0 else "b"
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
                cursor = self._nearest(rows)
        self.rows_changed(cursor)

    def settle(self) -> None:
        """Show what is wrong first, unless the user has moved: called once all is compared."""
        session = self.session
        if self.cursor or self.scroll_offset.y:
            return
        if session.is_untouched:
            session.settle(self.page)
            self.show_rows()
            first = session.next_difference(None)
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

    def _header(self, width: int) -> Cells:
        if self.has_panes:
            return self._pair.header(self._pair.columns(width), self.pane)
        if self.session.view == "files":
            return file_header(self._file_columns(width))
        return header_cells(self._columns(width))

    def header_strip(self, width: int) -> Strip:
        header = self._header(width)
        if not self.has_panes:
            text = "".join(text for text, _ in header)
            header = [(with_sort_mark(text, self.session), "header")]
        return self._strip(header, width, Style.null())

    async def header_clicked(self, x: int) -> None:
        header = self._header(self.scrollable_content_region.width)
        sort = sort_at("".join(text for text, _ in header), x)
        if sort is not None:
            await self.app.run_action(f"sort_by('{sort}')", self.screen)

    def words_strip(self, words: str, width: int) -> Strip:
        if not words and self.rows and self.has_panes:
            return self._strip(self._pair.blank(self._pair.columns(width)), width, Style.null())
        return self._strip([(f"  {words}" if words else "", "words")], width, Style.null())

    def row_strip(self, row: int, width: int) -> Strip:
        item = self.rows[row]
        if self.has_panes:
            self._pair.at_cursor(self.cursor, self.scroll_offset.y)
            cells = self._pair.row(row, self._pair.columns(width))
        elif isinstance(item, (HeldFile, StoredRow)):
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
