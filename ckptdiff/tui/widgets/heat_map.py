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

SHADES, ASCII_SHADES = " ░▒▓█", ".:-=#"  # none, then a quarter of the largest each
NO_NUMBER_MARK = "X"
WIDEST_CELL = 4
# Ticks beside rows and below columns.
TICKS = {"head": ("─", "│"), "rank": ("═", "║"), "file": ("═", "║")}
ASCII_TICKS = {"head": (">", "^"), "rank": ("@", "@"), "file": ("@", "@")}


@dataclass(frozen=True, slots=True)
class Heat:
    """What is drawn: levels of blocks, row by row, of a matrix of this shape."""

    shape: tuple[int, int]
    levels: bytes
    grid: tuple[int, int]
    top: float  # the largest |a-b|
    boundaries: tuple[Boundaries, ...] = ()


@dataclass(frozen=True, slots=True)
class Cells:
    """The grid brought to the space there is: each cell stands for one block or several."""

    values: tuple[tuple[int, ...], ...]  # the highest level of each
    rows: tuple[range, ...]  # of the matrix
    columns: tuple[range, ...]


def resample(heat: Heat, down: int, across: int) -> Cells:
    """Return at most `down` times `across` cells, each with the maximum of its blocks."""
    heights = _spans(heat.grid[0], down)
    widths = _spans(heat.grid[1], across)
    values = tuple(
        tuple(
            max(
                max(heat.levels[row * heat.grid[1] + left.start : row * heat.grid[1] + left.stop])
                for row in top
            )
            for left in widths
        )
        for top in heights
    )
    block_rows, block_columns = block_size(heat.shape)
    return Cells(
        values,
        tuple(_times(span, block_rows, heat.shape[0]) for span in heights),
        tuple(_times(span, block_columns, heat.shape[1]) for span in widths),
    )


def _spans(blocks: int, cells: int) -> list[range]:
    cells = max(1, min(blocks, cells))
    edges = [i * blocks // cells for i in range(cells + 1)]
    return [range(edges[i], edges[i + 1]) for i in range(cells)]


def _times(blocks: range, size: int, limit: int) -> range:
    return range(blocks.start * size, min(blocks.stop * size, limit))


def shade(level: int, top: float) -> int:
    """Return 0 for no difference, else 1 to 4: which quarter of the largest it is in."""
    if not level:
        return 0
    value = level_value(level)
    return max(1, min(4, int(-(-4 * value // top)))) if top else 1


def heat_lines(
    heat: Heat, width: int, height: int, *, cursor: tuple[int, int] | None, ascii_only: bool = False
) -> list[Line]:
    """Draw the map with its ticks, its scale and the cell under the cursor."""
    cells, wide = layout(heat, width, height)
    below = _legend(heat, cells, width, ascii_only=ascii_only)
    ticks = ASCII_TICKS if ascii_only else TICKS
    beside = _ticks(heat, 0, cells.rows, {word: pair[0] for word, pair in ticks.items()})
    beneath = _ticks(heat, 1, cells.columns, {word: pair[1] for word, pair in ticks.items()})
    shades = ASCII_SHADES if ascii_only else SHADES
    at = None if cursor is None else _cell_at(cells, cursor)
    lines: list[Line] = []
    for i, values in enumerate(cells.values):
        spans: list[StyledText] = [(beside[i], "dim")]
        for j, level in enumerate(values):
            mark = NO_NUMBER_MARK if level == NO_NUMBER else shades[shade(level, heat.top)]
            role = "cursor" if (i, j) == at else "act" if level == NO_NUMBER else "bar"
            spans.append((mark * wide, role))
        lines.append(_merged(spans))
    if beneath.strip():
        lines.append(line(" ", ("".join(tick.ljust(wide) for tick in beneath), "dim")))
    if at is not None:
        below.append(_cell_line(cells, at, width, ascii_only=ascii_only))
    return (lines + below)[: max(height, len(lines))]


def layout(heat: Heat, width: int, height: int) -> tuple[Cells, int]:
    """Return the cells that fit into a space, and how many columns each takes."""
    beneath = any(b.axis == 1 for b in heat.boundaries)
    below = 2 + bool(heat.boundaries)  # scale, ticks, cursor
    room = max(1, height - beneath - below)
    across = max(1, min(heat.grid[1], width - 1))
    return resample(heat, room, across), min(WIDEST_CELL, max(1, (width - 1) // across))


def _legend(heat: Heat, cells: Cells, width: int, *, ascii_only: bool) -> list[Line]:
    """Return the lines below the map: its scale and its ticks."""
    shades = ASCII_SHADES if ascii_only else SHADES
    parts = [f"{shades[0]} 0" if ascii_only else "0"]
    if heat.top:
        parts += [
            f"{mark} {format_number(heat.top * quarter / 4)}"
            for quarter, mark in enumerate(shades[1:], start=1)
        ]
    while len(" ".join(parts)) > width and len(parts) > 2:
        parts[-1] = shades[-1]  # the largest is told elsewhere
        if len(" ".join(parts)) > width:
            del parts[-2]
    scale = " ".join(parts)
    if NO_NUMBER in heat.levels:
        words = (f"{NO_NUMBER_MARK} NaN or Inf on one side", f"{NO_NUMBER_MARK} NaN, Inf")
        scale = _first_that_fits([f"{scale}  {word}" for word in words], width)
    lines = [line((scale, "dim"))]
    long, short = [], []
    for found in heat.boundaries:
        count, axis = len(found.starts) + 1, "columns" if found.axis else "rows"
        edges = [0, *found.starts, heat.shape[found.axis]]
        sizes = {stop - start for start, stop in pairwise(edges)}
        ticks = (ASCII_TICKS if ascii_only else TICKS)[found.word]
        drawn = _fits(found, (cells.rows, cells.columns)[found.axis])
        words = f"{ticks[found.axis]} " if drawn else "", f"{count} {found.word}s"
        short.append("".join(words))
        long.append(short[-1] + (f" of {sizes.pop()} {axis}" if len(sizes) == 1 else ""))
    if long:
        lines.append(line((_first_that_fits(["  ".join(long), "  ".join(short)], width), "dim")))
    return lines


def _first_that_fits(texts: Sequence[str], width: int) -> str:
    return next((text for text in texts if len(text) <= width), texts[-1][:width])


def _fits(found: Boundaries, spans: Sequence[range]) -> bool:
    """Whether ticks say something: what begins in more than half of the cells does not."""
    return len(found.starts) <= len(spans) // 2 + 1


def _ticks(heat: Heat, axis: int, spans: Sequence[range], marks: dict[str, str]) -> str:
    """Return one character for each cell: a tick where something begins in it."""
    ticks = [" "] * len(spans)
    for found in sorted(heat.boundaries, key=lambda found: found.word != "head"):
        if found.axis != axis or not _fits(found, spans):
            continue
        for start in found.starts:
            for i, span in enumerate(spans):
                if start in span:
                    ticks[i] = marks[found.word]
    return "".join(ticks)


def _cell_at(cells: Cells, element: tuple[int, int]) -> tuple[int, int]:
    row, column = element
    down = next((i for i, span in enumerate(cells.rows) if row in span), len(cells.rows) - 1)
    across = next((j for j, s in enumerate(cells.columns) if column in s), len(cells.columns) - 1)
    return down, across


def _cell_line(cells: Cells, at: tuple[int, int], width: int, *, ascii_only: bool) -> Line:
    rows, columns, level = cells.rows[at[0]], cells.columns[at[1]], cells.values[at[0]][at[1]]
    if level == NO_NUMBER:
        worth = "NaN or Inf on one side"
    else:
        least = f"max|d| {'>=' if ascii_only else '≥'} {format_number(level_value(level))}"
        worth = least if level else "no difference"
    places = [
        f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}",
        f"{rows.start}:{rows.stop}, {columns.start}:{columns.stop}",
    ]
    place = _first_that_fits(places, width - len(worth) - 2)
    return line((place, "strong"), f"  {worth}")


def _merged(spans: Sequence[StyledText]) -> Line:
    """Join neighbours of one role: a line of 64 spans paints slowly."""
    merged: list[StyledText] = []
    for text, role in spans:
        if merged and merged[-1][1] == role:
            merged[-1] = (merged[-1][0] + text, role)
        else:
            merged.append((text, role))
    return tuple(merged)


class HeatMap(Painted, can_focus=True):
    """The map with a cursor."""

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
        """Enter was pressed on a cell, which covers these rows and columns."""

        rows: range
        columns: range

    def __init__(self, *, id: str | None = None, cursor: bool = True) -> None:  # noqa: A002
        super().__init__(id=id)
        self.can_focus = cursor
        self.heat: Heat | None = None
        self.nothing = ""  # said where there is no map
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
        """Show a map with the cursor on the cell of one element, or say why there is none."""
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

    def _cells(self) -> tuple[Cells, int] | None:
        if self.heat is None or not self.heat.levels:
            return None
        return layout(self.heat, *self.content_size)

    def _go(self, cells: Cells, down: int, across: int) -> None:
        down = max(0, min(down, len(cells.rows) - 1))
        across = max(0, min(across, len(cells.columns) - 1))
        self.element = (cells.rows[down].start, cells.columns[across].start)
        self.changed()

    def action_move(self, down: int, across: int) -> None:
        laid = self._cells()
        if laid is None:
            return
        at = _cell_at(laid[0], self.element)
        self._go(laid[0], at[0] + down, at[1] + across)

    def action_open_cell(self) -> None:
        laid = self._cells()
        if laid is None:
            return
        at = _cell_at(laid[0], self.element)
        self.post_message(self.Opened(laid[0].rows[at[0]], laid[0].columns[at[1]]))

    def on_click(self, event: events.Click) -> None:
        laid = self._cells()
        place = event.get_content_offset(self)
        if laid is not None and place is not None and self._has_cursor:
            self._go(laid[0], place.y, (place.x - 1) // laid[1])
