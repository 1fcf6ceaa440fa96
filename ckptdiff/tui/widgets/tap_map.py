"""The table of taps: how far apart the sides are after each step of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.taps import (
    NARROWEST,
    TapGrid,
    heading,
    number_of,
    tap_grid,
    tap_mark,
    tap_words,
    widths,
)
from ckptdiff.tui.widgets.painted import Painted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual import events

    from ckptdiff.results import Tap
    from ckptdiff.tui.text.lines import Line, StyledText
    from ckptdiff.tui.text.taps import TapRow, TensorRead

LABEL = 5  # cells of a layer number
WORDS = 2  # lines about the tap under the cursor


class TapMap(Painted, can_focus=True):
    """The table of taps with a cursor. The layer numbers and the column headings do not scroll."""

    ALLOW_MAXIMIZE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "open_tap", "Open", id="taps.open",
            tooltip="open the tensor that this step depends on, one that differs if there is one",
        ),
        Binding(
            "n", "bad(1)", "Next bad", id="taps.next", tooltip="the next step above the threshold"
        ),
        Binding(
            "N", "bad(-1)", "Previous bad", show=False, id="taps.previous",
            tooltip="the step above the threshold before this one",
        ),
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="taps.up", tooltip="one layer up"),
        Binding(
            "down,j", "move(1, 0)", "Down", show=False, id="taps.down", tooltip="one layer down"
        ),
        Binding(
            "left,h", "move(0, -1)", "Left", show=False, id="taps.left", tooltip="the step before"
        ),
        Binding(
            "right,l", "move(0, 1)", "Right", show=False, id="taps.right", tooltip="the next step"
        ),
        Binding(
            "g,home", "end(-1)", "First", show=False, id="taps.first", tooltip="the first layer"
        ),
        Binding("G,end", "end(1)", "Last", show=False, id="taps.last", tooltip="the last layer"),
        Binding(
            "ctrl+d,pagedown", "page(1)", "Page down", show=False, id="taps.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup", "page(-1)", "Page up", show=False, id="taps.page_up",
            tooltip="one page up",
        ),
    ]  # fmt: skip
    DEFAULT_CSS = """
    TapMap { height: 1fr; }
    """

    @dataclass
    class Opened(Message):
        """Enter was pressed on a tap."""

        tap: Tap

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.grid = TapGrid()
        self.row = self.column = 0
        self.top = self.left = 0  # the first row and column in sight
        self.threshold: float | None = None
        self.first: Tap | None = None
        self._reads: Callable[[Tap], Sequence[TensorRead]] | None = None
        self._ascii_only = ascii_only

    @property
    def tap(self) -> Tap | None:
        """The tap under the cursor."""
        if not self.grid.rows:
            return None
        return self.grid.rows[self.row].taps[self.column]

    def show(
        self,
        taps: Sequence[Tap],
        *,
        threshold: float | None = None,
        first: Tap | None = None,
        reads: Callable[[Tap], Sequence[TensorRead]] | None = None,
    ) -> None:
        """Show taps. `threshold`, `first` and `reads` are known at the end only.

        Until then the cursor follows the last row; at the end it goes to the first bad tap.
        """
        following = self.row >= len(self.grid.rows) - 1
        ended = threshold is not None and self.threshold is None
        self.grid = tap_grid(taps)
        self.threshold, self.first, self._reads = threshold, first, reads
        if not self.grid.rows:
            self.row = self.column = self.top = self.left = 0
        elif ended:
            self._go_to(first)
        elif threshold is None and following:
            self._go(len(self.grid.rows) - 1, 0)
        else:
            self._go(self.row, self.column)
        self.changed()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Disable the keys that need the threshold, which is known at the end."""
        return self.threshold is not None or action not in ("open_tap", "bad")

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def lines(self, width: int, height: int) -> list[Line]:
        shown = max(1, height - 1 - WORDS)
        self._keep_in_sight(width, shown)
        sizes = widths(self.grid)
        last = self._last_column(width)
        head = "".join(
            f"{heading(name):>{size}}"
            for name, size in zip(self.grid.columns, sizes, strict=True)
        )  # fmt: skip
        start = sum(sizes[: self.left])
        head = head[start : start + sum(sizes[self.left : last])]
        if self.left:
            head = f"<{head[1:]}"
        if last < len(sizes):
            head += " >"
        lines = [line((f"{'layer':>{LABEL}}{head}", "dim"))]
        rows = self.grid.rows[self.top : self.top + shown]
        for number, row in enumerate(rows, self.top):
            lines.append(self._row(number, row, sizes, last))
        lines += [line("")] * (shown - len(rows))
        # Setting the subtitle draws the border again, which must not happen while drawing.
        self.call_after_refresh(self._show_extent, last, len(rows))
        tap = self.tap
        if tap is not None:
            lines += tap_words(
                tap,
                self.threshold,
                first=tap is self.first,
                reads=None if self._reads is None else self._reads(tap),
                width=width,
                ascii_only=self._ascii_only,
            )
        return lines

    def _row(self, number: int, row: TapRow, sizes: Sequence[int], last: int) -> Line:
        spans: list[StyledText] = [(f"{row.label:>{LABEL}}", "dim")]
        if row.in_columns:
            for column in range(self.left, last):
                tap = row.taps[column]
                at_cursor = (number, column) == (self.row, self.column)
                spans += self._cell(tap, sizes[column], at_cursor=at_cursor)
        else:
            for column, tap in enumerate(row.taps):
                at_cursor = (number, column) == (self.row, self.column)
                assert tap is not None
                spans.append((f"  {tap.name}", "dim"))
                spans += self._cell(tap, NARROWEST + 1, at_cursor=at_cursor)
        return tuple(spans)

    def _cell(self, tap: Tap | None, width: int, *, at_cursor: bool) -> list[StyledText]:
        """Return a tap's number after its mark; `>` precedes the first bad one."""
        if tap is None:
            return [(" " * (width - 1), ""), ("-", "cursor" if at_cursor else "dim")]
        mark = tap_mark(tap, self.threshold)
        text = mark + number_of(tap)
        role = {"": "dim" if self.threshold is not None else "", "~": "close", "!": "differ"}[mark]
        if tap is self.first:
            text = f">{text}"
        blanks = " " * (width - len(text))
        return [(blanks, ""), (text, "cursor" if at_cursor else role)]

    def _show_extent(self, last: int, rows: int) -> None:
        """Show in the border which rows and taps are in sight, if not all are."""
        grid, parts = self.grid, []
        if rows < len(grid.rows):
            parts.append(f"rows {self.top + 1} to {self.top + rows} of {len(grid.rows)}")
        if last - self.left < len(grid.columns):
            parts.append(f"steps {self.left + 1} to {last} of {len(grid.columns)}")
        self.border_subtitle = ", ".join(parts)

    # ── scrolling ────────────────────────────────────────────────────────────────────────────

    def _last_column(self, width: int) -> int:
        """Return the index after the last column that fits."""
        room = width - LABEL
        sizes = widths(self.grid)
        for column in range(self.left, len(sizes)):
            room -= sizes[column]
            if room < 0:
                return max(column, self.left + 1)
        return len(sizes)

    def _keep_in_sight(self, width: int, shown: int) -> None:
        self.top = max(self.row - shown + 1, min(self.top, self.row))
        self.top = max(0, min(self.top, len(self.grid.rows) - shown))
        if not self.grid.rows or not self.grid.rows[self.row].in_columns:
            return
        self.left = min(self.left, self.column)
        while self._last_column(width) <= self.column:
            self.left += 1

    # ── moving ───────────────────────────────────────────────────────────────────────────────

    def _go(self, row: int, column: int) -> None:
        self.row = max(0, min(row, len(self.grid.rows) - 1))
        self.column = max(0, min(column, len(self.grid.rows[self.row].taps) - 1))

    def _go_to(self, tap: Tap | None) -> None:
        for number, row in enumerate(self.grid.rows):
            for column, found in enumerate(row.taps):
                if found is not None and found is tap:
                    self._go(number, column)
                    return
        self._go(0, 0)

    def action_move(self, down: int, across: int) -> None:
        if self.grid.rows:
            self._go(self.row + down, self.column + across)
            self._moved()

    def _moved(self) -> None:
        self.changed()
        self.screen.refresh_bindings()

    def action_end(self, step: Literal[1, -1]) -> None:
        self.action_move(step * len(self.grid.rows), 0)

    def action_page(self, step: Literal[1, -1]) -> None:
        self.action_move(step * max(1, self.content_size.height - 1 - WORDS), 0)

    def action_bad(self, step: Literal[1, -1]) -> None:
        """Go to the next marked tap, wrapping around at the end."""
        bad = [
            (number, column)
            for number, row in enumerate(self.grid.rows)
            for column, tap in enumerate(row.taps)
            if tap is not None and tap_mark(tap, self.threshold)
        ]
        if not bad:
            self.notify("No step is above the threshold.")
            return
        here = self.row, self.column
        if step > 0:
            found = next((place for place in bad if place > here), bad[0])
        else:
            found = next((place for place in reversed(bad) if place < here), bad[-1])
        self._go(*found)
        self._moved()

    def action_open_tap(self) -> None:
        if self.tap is not None:
            self.post_message(self.Opened(self.tap))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-1, 0)
