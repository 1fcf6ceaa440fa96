"""Where in a matrix two sides differ: the largest |a-b| of each block, as a shade."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.kernels.stats import NO_NUMBER, block_size, level_value
from ckptdiff.text import format_number
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.widgets.painted import Painted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events

    from ckptdiff.assembly.shard_map import Boundaries
    from ckptdiff.tui.text.lines import Line, StyledText

SHADES, ASCII_SHADES = " ░▒▓█", ".:-=#"  # no difference, then one for each quarter of the largest
NO_NUMBER_MARK = "X"
WIDEST_CELL = 4  # columns of the terminal
# Of each kind of boundary, the tick beside rows and the one below columns.
TICKS = {"head": ("─", "│"), "rank": ("═", "║"), "file": ("═", "║")}
ASCII_TICKS = {"head": (">", "^"), "rank": ("@", "@"), "file": ("@", "@")}


@dataclass(frozen=True, slots=True)
class Heat:
    """The largest |a-b| in each block of a matrix."""

    shape: tuple[int, int]  # of the matrix
    levels: bytes  # of the blocks, row by row; `kernels.stats.level_value` decodes one
    grid: tuple[int, int]  # (rows, columns) of blocks
    top: float  # the largest |a-b|
    boundaries: tuple[Boundaries, ...] = ()


@dataclass(frozen=True, slots=True)
class Cells:
    """The grid scaled down to fit: each cell is one block or several."""

    values: tuple[tuple[int, ...], ...]  # the highest level of each
    rows: tuple[range, ...]  # of the matrix
    columns: tuple[range, ...]


def resample(heat: Heat, down: int, across: int) -> Cells:
    """Return at most `down` by `across` cells, each with the highest level of its blocks."""
    block_rows_of = _block_ranges(heat.grid[0], down)
    block_columns_of = _block_ranges(heat.grid[1], across)
    values = tuple(
        tuple(
            max(
                max(heat.levels[row * heat.grid[1] + span.start : row * heat.grid[1] + span.stop])
                for row in rows
            )
            for span in block_columns_of
        )
        for rows in block_rows_of
    )
    block_rows, block_columns = block_size(heat.shape)
    return Cells(
        values,
        tuple(_elements(span, block_rows, heat.shape[0]) for span in block_rows_of),
        tuple(_elements(span, block_columns, heat.shape[1]) for span in block_columns_of),
    )


def _block_ranges(blocks: int, cells: int) -> list[range]:
    """Split a number of blocks into at most `cells` ranges."""
    cells = max(1, min(blocks, cells))
    edges = [i * blocks // cells for i in range(cells + 1)]
    return [range(edges[i], edges[i + 1]) for i in range(cells)]


def _elements(blocks: range, size: int, limit: int) -> range:
    """Return the rows or columns of the matrix in a range of blocks."""
    return range(blocks.start * size, min(blocks.stop * size, limit))


def shade(level: int, top: float) -> int:
    """Return 0 for no difference, else 1 to 4: the quarter of the largest that it is in."""
    if not level:
        return 0
    value = level_value(level)
    return max(1, min(4, int(-(-4 * value // top)))) if top else 1


def heat_lines(
    heat: Heat, width: int, height: int, *, cursor: tuple[int, int] | None, ascii_only: bool = False
) -> list[Line]:
    """Draw the map with its ticks, its scale and a line about the cell under the cursor."""
    cells, cell_width = layout(heat, width, height)
    footer = _legend(heat, cells, width, ascii_only=ascii_only)
    ticks = ASCII_TICKS if ascii_only else TICKS
    row_ticks = _ticks(heat, 0, cells.rows, {word: pair[0] for word, pair in ticks.items()})
    column_ticks = _ticks(heat, 1, cells.columns, {word: pair[1] for word, pair in ticks.items()})
    shades = ASCII_SHADES if ascii_only else SHADES
    at = None if cursor is None else _cell_at(cells, cursor)
    lines: list[Line] = []
    for i, values in enumerate(cells.values):
        spans: list[StyledText] = [(row_ticks[i], "dim")]
        for j, level in enumerate(values):
            mark = NO_NUMBER_MARK if level == NO_NUMBER else shades[shade(level, heat.top)]
            role = "cursor" if (i, j) == at else "act" if level == NO_NUMBER else "bar"
            spans.append((mark * cell_width, role))
        lines.append(_merged(spans))
    if column_ticks.strip():
        padded = "".join(tick.ljust(cell_width) for tick in column_ticks)
        lines.append(line(" ", (padded, "dim")))
    if at is not None:
        footer.append(_cell_line(cells, at, width, ascii_only=ascii_only))
    return (lines + footer)[: max(height, len(lines))]


def layout(heat: Heat, width: int, height: int) -> tuple[Cells, int]:
    """Return the cells that fit, and the columns of the terminal that each takes."""
    tick_lines = any(b.axis == 1 for b in heat.boundaries)
    footer_lines = 2 + bool(heat.boundaries)  # scale, meaning of the ticks, cursor
    room = max(1, height - tick_lines - footer_lines)
    across = max(1, min(heat.grid[1], width - 1))
    return resample(heat, room, across), min(WIDEST_CELL, max(1, (width - 1) // across))


def _legend(heat: Heat, cells: Cells, width: int, *, ascii_only: bool) -> list[Line]:
    """Return the lines below the map: its scale, and the meaning of its ticks."""
    shades = ASCII_SHADES if ascii_only else SHADES
    parts = [f"{shades[0]} 0" if ascii_only else "0"]
    if heat.top:
        parts += [
            f"{mark} {format_number(heat.top * quarter / 4)}"
            for quarter, mark in enumerate(shades[1:], start=1)
        ]
    while len(" ".join(parts)) > width and len(parts) > 2:
        parts[-1] = shades[-1]  # the largest is among the figures too
        if len(" ".join(parts)) > width:
            del parts[-2]
    scale = " ".join(parts)
    if NO_NUMBER in heat.levels:
        words = (f"{NO_NUMBER_MARK} NaN or Inf on one side", f"{NO_NUMBER_MARK} NaN, Inf")
        scale = _first_that_fits([f"{scale}  {word}" for word in words], width)
    lines = [line((scale, "dim"))]
    long, short = [], []
    for boundaries in heat.boundaries:
        count = len(boundaries.starts) + 1
        axis = "columns" if boundaries.axis else "rows"
        edges = [0, *boundaries.starts, heat.shape[boundaries.axis]]
        sizes = {stop - start for start, stop in pairwise(edges)}
        ticks = (ASCII_TICKS if ascii_only else TICKS)[boundaries.word]
        drawn = _fits(boundaries, (cells.rows, cells.columns)[boundaries.axis])
        tick = f"{ticks[boundaries.axis]} " if drawn else ""
        short.append(f"{tick}{count} {boundaries.word}s")
        long.append(short[-1] + (f" of {sizes.pop()} {axis}" if len(sizes) == 1 else ""))
    if long:
        lines.append(line((_first_that_fits(["  ".join(long), "  ".join(short)], width), "dim")))
    return lines


def _first_that_fits(texts: Sequence[str], width: int) -> str:
    return next((text for text in texts if len(text) <= width), texts[-1][:width])


def _fits(boundaries: Boundaries, spans: Sequence[range]) -> bool:
    """Return whether ticks are drawn: not if more than half of the cells would have one."""
    return len(boundaries.starts) <= len(spans) // 2 + 1


def _ticks(heat: Heat, axis: int, spans: Sequence[range], marks: dict[str, str]) -> str:
    """Return one character for each cell along an axis: a tick if a head or rank starts there."""
    ticks = [" "] * len(spans)
    for boundaries in sorted(heat.boundaries, key=lambda each: each.word != "head"):
        if boundaries.axis != axis or not _fits(boundaries, spans):
            continue
        for start in boundaries.starts:
            for i, span in enumerate(spans):
                if start in span:
                    ticks[i] = marks[boundaries.word]
    return "".join(ticks)


def _cell_at(cells: Cells, element: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column of the cell that holds an element of the matrix."""
    row, column = element
    down = next((i for i, span in enumerate(cells.rows) if row in span), len(cells.rows) - 1)
    across = next((j for j, s in enumerate(cells.columns) if column in s), len(cells.columns) - 1)
    return down, across


def _cell_line(cells: Cells, at: tuple[int, int], width: int, *, ascii_only: bool) -> Line:
    """Return which rows and columns a cell covers, and its largest difference."""
    rows, columns, level = cells.rows[at[0]], cells.columns[at[1]], cells.values[at[0]][at[1]]
    if level == NO_NUMBER:
        value = "NaN or Inf on one side"
    else:
        least = f"max|d| {'>=' if ascii_only else '≥'} {format_number(level_value(level))}"
        value = least if level else "no difference"
    places = [
        f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}",
        f"{rows.start}:{rows.stop}, {columns.start}:{columns.stop}",
    ]
    place = _first_that_fits(places, width - len(value) - 2)
    return line((place, "strong"), f"  {value}")


def _merged(spans: Sequence[StyledText]) -> Line:
    """Join neighbouring spans of one role, since a line of 64 spans paints slowly."""
    merged: list[StyledText] = []
    for text, role in spans:
        if merged and merged[-1][1] == role:
            merged[-1] = (merged[-1][0] + text, role)
        else:
            merged.append((text, role))
    return tuple(merged)


class HeatMap(Painted, can_focus=True):
    """The heat map with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="heat.up", tooltip="one cell up"),
        Binding(
            "down,j", "move(1, 0)", "Down", show=False, id="heat.down", tooltip="one cell down"
        ),
        Binding(
            "left,h", "move(0, -1)", "Left", show=False, id="heat.left", tooltip="one cell left"
        ),
        Binding(
            "right,l", "move(0, 1)", "Right", show=False, id="heat.right", tooltip="one cell right"
        ),
        Binding(
            "enter",
            "open_cell",
            "Values here",
            id="heat.open",
            tooltip="show the values around the largest difference of the cell",
        ),
    ]
    DEFAULT_CSS = """
    HeatMap { height: 1fr; }
    """

    @dataclass
    class Opened(Message):
        """Enter was pressed on the cell of these rows and columns."""

        rows: range
        columns: range

    def __init__(self, *, id: str | None = None, cursor: bool = True) -> None:  # noqa: A002
        super().__init__(id=id)
        self.can_focus = cursor
        self.heat: Heat | None = None
        self.nothing = ""  # shown if there is no map
        self.element: tuple[int, int] = (0, 0)  # in the cell under the cursor
        self.ascii_only = False
        self._has_cursor = cursor

    def show(
        self,
        heat: Heat | None,
        *,
        at: tuple[int, int] = (0, 0),
        nothing: str = "",
        ascii_only: bool = False,
    ) -> None:
        """Show a map with the cursor on the cell of element `at`; without a map, show `nothing`."""
        self.heat, self.nothing, self.ascii_only = heat, nothing, ascii_only
        self.element = at
        rows, columns = (0, 0) if heat is None else heat.shape
        extent = f"{rows} rows down, {columns} columns across"
        self.border_subtitle = "" if heat is None else extent
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:
        if self.heat is None or not self.heat.levels:
            return [line((self.nothing, "dim"))]
        cursor = self.element if self._has_cursor else None
        return heat_lines(self.heat, width, height, cursor=cursor, ascii_only=self.ascii_only)

    def _layout(self) -> tuple[Cells, int] | None:
        if self.heat is None or not self.heat.levels:
            return None
        return layout(self.heat, *self.content_size)

    def _go(self, cells: Cells, down: int, across: int) -> None:
        down = max(0, min(down, len(cells.rows) - 1))
        across = max(0, min(across, len(cells.columns) - 1))
        self.element = (cells.rows[down].start, cells.columns[across].start)
        self.changed()

    def action_move(self, down: int, across: int) -> None:
        laid_out = self._layout()
        if laid_out is None:
            return
        at = _cell_at(laid_out[0], self.element)
        self._go(laid_out[0], at[0] + down, at[1] + across)

    def action_open_cell(self) -> None:
        laid_out = self._layout()
        if laid_out is None:
            return
        at = _cell_at(laid_out[0], self.element)
        self.post_message(self.Opened(laid_out[0].rows[at[0]], laid_out[0].columns[at[1]]))

    def on_click(self, event: events.Click) -> None:
        laid_out = self._layout()
        offset = event.get_content_offset(self)
        if laid_out is not None and offset is not None and self._has_cursor:
            self._go(laid_out[0], offset.y, (offset.x - 1) // laid_out[1])
