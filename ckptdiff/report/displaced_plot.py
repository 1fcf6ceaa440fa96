"""Draw what lies in another's place: with characters, so that it fits a terminal and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.results import Displaced

COLUMNS, LINES = 32, 8
TWO_LINES = 16  # numbers that are set side by side


def picture(moved: Displaced, *, ascii_only: bool = False) -> Iterator[str]:
    """Yield the lines of a picture, at most 60 cells wide, and first what it shows."""
    if moved.unit in ("row", "column"):
        yield from _dots(moved, ascii_only=ascii_only)
    else:
        yield from _side_by_side(moved)


def _side_by_side(moved: Displaced) -> Iterator[str]:
    """Yield the places and below each what it holds."""
    shown = moved.pairs[:TWO_LINES]
    width = max(len(str(number)) for pair in shown for number in pair) + 1
    head = max(len(moved.unit), len("holds"))
    for word, at in ((moved.unit, 0), ("holds", 1)):
        yield f"{word:<{head}} " + "".join(f"{pair[at]:>{width}}" for pair in shown)
    if len(moved.pairs) > len(shown):
        yield f"and {len(moved.pairs) - len(shown)} more"


def _dots(moved: Displaced, *, ascii_only: bool) -> Iterator[str]:
    """Yield a plot: across the place, down the place that its content belongs to."""
    unit, last = moved.unit, moved.stop - 1
    yield f"{moved.where}{unit}s {moved.start} to {last}: across, where each lies;"
    yield "down, where it belongs (dotted: in its own place)"
    span = moved.stop - moved.start
    columns, lines = min(COLUMNS, 2 * span), min(LINES, -(-span // 2))
    halves = min(2 * lines, span)
    wide = max(1, columns // span)
    found = set()
    for row, home in moved.pairs:
        x = (row - moved.start) * columns // span
        y = (home - moved.start) * halves // span
        found |= {(x + i, y) for i in range(wide)}
    edge = "|" if ascii_only else "│"
    for number in range(lines):
        upper, lower = 2 * number, 2 * number + 1
        cells = ""
        for x in range(columns):
            mark = ((x, upper) in found) + 2 * ((x, lower) in found)
            on_diagonal = x * lines // columns == number
            empty = ("." if ascii_only else "·") if on_diagonal else " "
            cells += empty if not mark else "*" if ascii_only else "▀▄█"[mark - 1]
        yield f"{edge}{cells}{edge}"
