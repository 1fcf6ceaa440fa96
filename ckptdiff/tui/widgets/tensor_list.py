"""The tensor list: it draws only the lines on the screen, so 90,000 rows cost no more than 20."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckptdiff.tui.model.inventory import Layer
from ckptdiff.tui.widgets.tensor_row import columns, header_cells, row_cells

if TYPE_CHECKING:
    from textual.events import Click, Resize

    from ckptdiff.tui.model.session import Row, Session
    from ckptdiff.tui.widgets.tensor_row import Cells

HEADER = 1  # the first line names the columns and does not scroll


class TensorList(ScrollView, can_focus=True):
    """The rows of a session, folded by layer, with a cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tensor-list--header",
        "tensor-list--cursor",
        "tensor-list--layer",
        "tensor-list--words",
        "tensor-list--same",
        "tensor-list--close",
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
        Binding("j,down", "move(1)", "Down", show=False, id="list.down", tooltip="one row down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="list.up", tooltip="one row up"),
        Binding("g,home", "first", "First", show=False, id="list.first", tooltip="the first row"),
        Binding("G,end", "last", "Last", show=False, id="list.last", tooltip="the last row"),
        Binding(
            "ctrl+d,pagedown",
            "page(1)",
            "Page down",
            show=False,
            id="list.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup",
            "page(-1)",
            "Page up",
            show=False,
            id="list.page_up",
            tooltip="one page up",
        ),
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
    class CursorMoved(Message):
        """The cursor stands on another row, or on none."""

        row: Row | None

    @dataclass
    class RowOpened(Message):
        """Enter was pressed on a row, or it was clicked twice."""

        row: Row

    cursor = reactive(0, repaint=False)

    def __init__(self, session: Session, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.session = session
        self.empty_words = ""  # what to say while there are no rows
        self._styles_by_word: dict[str, Style] = {}
        self._last_row: Row | None = None
        self._strips: dict[int, Strip] = {}  # what was drawn, by row

    # ── what is shown ────────────────────────────────────────────────────────────────────────

    @property
    def row(self) -> Row | None:
        """What the cursor stands on."""
        rows = self.session.rows
        return rows[self.cursor] if 0 <= self.cursor < len(rows) else None

    @property
    def name_here(self) -> str | None:
        """The canonical name under the cursor; None on the head of a layer."""
        row = self.row
        return row if isinstance(row, str) else None

    def show_rows(self) -> None:
        """Draw the session's rows again, with the cursor on the row where it was if it is there."""
        rows = self.session.rows
        self.virtual_size = Size(1, len(rows) + HEADER)
        cursor = self.cursor
        if self._last_row is not None and not (
            cursor < len(rows) and rows[cursor] is self._last_row
        ):
            try:
                cursor = rows.index(self._last_row)
            except ValueError:
                cursor = self._nearest(rows)
        cursor = max(0, min(len(rows) - 1, cursor))
        if cursor == self.cursor:
            self._cursor_moved()
        else:
            self.cursor = cursor
        self._note_visible()
        self.redraw()

    def _nearest(self, rows: list[Row]) -> int:
        """Return a place for the cursor when its row is gone: its layer's head, or nearby."""
        if isinstance(self._last_row, str):
            layer = self.session.layer_of(self._last_row)
            if layer is not None and layer in rows:
                return rows.index(layer)
        return self.cursor

    def go_to(self, name: str) -> bool:
        """Put the cursor on a name, unfolding its layer; False if the filter hides it."""
        rows = len(self.session.rows)
        index = self.session.reveal(name)
        if index is None:
            return False
        self._last_row = name
        if len(self.session.rows) != rows:
            self.virtual_size = Size(1, len(self.session.rows) + HEADER)
            self.redraw()
        self.cursor = index
        self._cursor_moved()
        return True

    @property
    def page(self) -> int:
        """How many rows fit."""
        return max(1, self.scrollable_content_region.height - HEADER)

    def _note_visible(self) -> None:
        top = self.scroll_offset.y
        rows = self.session.rows[top : top + self.page]
        self.session.visible = tuple(row for row in rows if isinstance(row, str))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._note_visible()

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002
        self._note_visible()
        self._scroll_to_cursor()

    # ── cursor ───────────────────────────────────────────────────────────────────────────────

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(len(self.session.rows) - 1, cursor))

    def watch_cursor(self, old: int, new: int) -> None:
        for index in (old, new):
            self._strips.pop(index, None)
            self.refresh_line(index + HEADER)
        self._scroll_to_cursor()
        self._cursor_moved()

    def _cursor_moved(self) -> None:
        row = self.row
        self._last_row = row
        self.post_message(self.CursorMoved(row))

    def _scroll_to_cursor(self) -> None:
        top, page = self.scroll_offset.y, self.page
        if self.cursor < top:
            far = top - self.cursor > page
            self._scroll(self.cursor - (page // 2 if far else 0))
        elif self.cursor >= top + page:
            far = self.cursor - top > 2 * page
            self._scroll(self.cursor - (page // 2 if far else page - 1))

    def _scroll(self, y: int) -> None:
        # Forced, since a list that has just grown has no scrollbar yet.
        self.scroll_to(y=y, animate=False, force=True)

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_first(self) -> None:
        self.cursor = 0

    def action_last(self) -> None:
        self.cursor = len(self.session.rows) - 1

    def action_page(self, pages: int) -> None:
        self.cursor += pages * self.page

    def action_open(self) -> None:
        row = self.row
        if isinstance(row, Layer):
            self.action_toggle_fold()
        elif row is not None:
            self.post_message(self.RowOpened(row))

    def on_click(self, event: Click) -> None:
        line = event.get_content_offset(self)
        if line is None or line.y < HEADER:
            return
        index = line.y - HEADER + self.scroll_offset.y
        if index >= len(self.session.rows):
            return
        self.cursor = index
        if event.chain == 2:
            self.action_open()

    # ── folds ────────────────────────────────────────────────────────────────────────────────

    def _layer_here(self) -> Layer | None:
        row = self.row
        if isinstance(row, Layer):
            return row
        return (
            self.session.layer_of(row) if isinstance(row, str) and not self.session.flat else None
        )

    def action_fold(self) -> None:
        """Fold the layer of this row; the cursor goes to its head."""
        layer = self._layer_here()
        if layer is not None and self.session.is_unfolded(layer):
            self.session.fold(layer, unfolded=False)
            self._last_row = layer
            self.show_rows()

    def action_unfold(self) -> None:
        layer = self._layer_here()
        if layer is not None and not self.session.is_unfolded(layer):
            self.session.fold(layer, unfolded=True)
            self.show_rows()
        elif isinstance(self.row, Layer):
            self.action_move(1)

    def action_toggle_fold(self) -> None:
        layer = self._layer_here()
        if layer is None:
            return
        if self.session.is_unfolded(layer):
            self.action_fold()
        else:
            self.action_unfold()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def redraw(self) -> None:
        """Draw every row again."""
        self._strips.clear()
        self.refresh()

    def notify_style_update(self) -> None:
        self._styles_by_word.clear()
        self._strips.clear()
        super().notify_style_update()

    def _style(self, word: str) -> Style:
        style = self._styles_by_word.get(word)
        if style is None:
            style = (
                self.get_component_rich_style(f"tensor-list--{word}") if word else self.rich_style
            )
            self._styles_by_word[word] = style
        return style

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        session = self.session
        index = y - HEADER + self.scroll_offset.y
        if y >= HEADER and index >= len(session.rows):
            words = f"  {self.empty_words}" if not session.rows and y == HEADER + 1 else ""
            return self._strip([(words, "words")], width, Style.null())
        key = -1 if y < HEADER else index
        strip = self._strips.get(key)
        if strip is None or strip.cell_length != width:
            strip = self._strips[key] = self._row_strip(key, width)
        return strip

    def _row_strip(self, index: int, width: int) -> Strip:
        """Draw a row, or with the index -1 the line that names the columns."""
        session = self.session
        layout = columns(width, shape=session.inventory.shape_width, browsing=session.browsing)
        if index < 0:
            return self._strip(header_cells(layout), width, Style.null())
        cells = row_cells(session, session.rows[index], layout)
        if index != self.cursor:
            return self._strip(cells, width, Style.null())
        cursor = self._style("cursor")
        if cursor.reverse:  # without shades no word's colour is sure to be readable on it
            text = "".join(text for text, _ in cells)
            return self._strip([(text, "")], width, Style(bold=True, reverse=True))
        return self._strip(cells, width, Style(bgcolor=cursor.bgcolor, bold=True))

    def _strip(self, cells: Cells, width: int, over: Style) -> Strip:
        segments = [Segment(text, self._style(word) + over) for text, word in cells]
        return Strip(segments).adjust_cell_length(width, self._style("") + over)
