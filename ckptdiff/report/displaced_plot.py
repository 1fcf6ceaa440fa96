"""Draw content that lies in the wrong place, with characters for terminals and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.results import Displaced

_COLUMNS, _LINES = 32, 8  # the largest plot, in characters
_MAX_PAIRS = 16  # places that are listed


def picture(moved: Displaced, *, ascii_only: bool = False) -> Iterator[str]:
    """Yield the lines of a picture, at most 60 characters wide; a plot begins with its legend.

    Rows and columns are plotted; ranks, layers and experts are listed.
    """
    if moved.unit in ("row", "column"):
        yield from _dots(moved, ascii_only=ascii_only)
    else:
        yield from _side_by_side(moved)


def _side_by_side(moved: Displaced) -> Iterator[str]:
    """Yield a line of places, and a line with the content that each holds."""
    shown = moved.pairs[:_MAX_PAIRS]
    width = max(len(str(number)) for pair in shown for number in pair) + 1
    head = max(len(moved.unit), len("holds"))
    for word, at in ((moved.unit, 0), ("holds", 1)):
        yield f"{word:<{head}} " + "".join(f"{pair[at]:>{width}}" for pair in shown)
    if len(moved.pairs) > len(shown):
        yield f"and {len(moved.pairs) - len(shown)} more"


def _dots(moved: Displaced, *, ascii_only: bool) -> Iterator[str]:
    """Yield a plot: x is a place, y the place that its content belongs to.

    A character shows two values of y, as its upper and lower half.
    """
    unit, last = moved.unit, moved.stop - 1
    yield f"{moved.where}{unit}s {moved.start} to {last}: across, where each lies;"
    yield "down, where it belongs (dotted: in its own place)"
    span = moved.stop - moved.start
    columns, lines = min(_COLUMNS, 2 * span), min(_LINES, -(-span // 2))
    halves = min(2 * lines, span)
    width = max(1, columns // span)
    marked = set()
    for row, home in moved.pairs:
        x = (row - moved.start) * columns // span
        y = (home - moved.start) * halves // span
        marked |= {(x + i, y) for i in range(width)}
    edge = "|" if ascii_only else "│"
    for number in range(lines):
        upper, lower = 2 * number, 2 * number + 1
        cells = ""
        for x in range(columns):
            mark = ((x, upper) in marked) + 2 * ((x, lower) in marked)
            on_diagonal = x * lines // columns == number
            empty = ("." if ascii_only else "·") if on_diagonal else " "
            cells += empty if not mark else "*" if ascii_only else "▀▄█"[mark - 1]
        yield f"{edge}{cells}{edge}"
