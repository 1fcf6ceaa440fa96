"""How the dimension of a cut is got wrong: shards of the right shape, in another memory order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.checkpoint import Box

    # Of a whole tensor's shape, for a rank of so many: which of its boxes fill which of the shard.
    Boxes = Callable[[tuple[int, ...], int, int], Iterable[tuple[Box, Box]]]
    Run = tuple[int, int, int]  # a row of the whole, and its columns from and to

MOST_BOXES = 1 << 16


def other_axis(dim: int, tp: int) -> Iterator[tuple[str, Boxes]]:
    """Yield names and boxes of what was cut, or joined, along the other of two dimensions."""
    if tp > 1:
        yield "cut-along-other", partial(_cut_along_other, dim)
    for ranks in (2, 4, 8, 16):
        yield f"joined-along-other-{ranks}", partial(_joined_along_other, dim, ranks)


def halves_exchanged(shape: tuple[int, ...], tp: int, rank: int) -> list[tuple[Box, Box]]:
    """Exchange the left and the right half of a rank's rows."""
    rows, half = (rank * shape[0] // tp, (rank + 1) * shape[0] // tp), shape[1] // 2
    own = (0, rows[1] - rows[0])
    left, right = (0, half), (half, 2 * half)
    return [((rows, right), (own, left)), ((rows, left), (own, right))]


def _cut_along_other(
    dim: int, shape: tuple[int, ...], tp: int, rank: int
) -> Iterable[tuple[Box, Box]]:
    if len(shape) != 2 or shape[0] % tp or shape[1] % tp or shape[0] > MOST_BOXES:
        return ()
    rows, columns = shape
    if dim == 1:  # rows of the whole, where columns should be
        first = rank * rows // tp
        runs = ((row, 0, columns) for row in range(first, first + rows // tp))
        return _boxes(runs, columns // tp)
    first = rank * columns // tp
    return _boxes(((row, first, first + columns // tp) for row in range(rows)), columns)


def _joined_along_other(
    dim: int, ranks: int, shape: tuple[int, ...], tp: int, rank: int
) -> Iterator[tuple[Box, Box]]:
    """Join the shards of other ranks along the wrong dimension, reshape, and cut as is right."""
    if len(shape) != 2 or shape[dim] % ranks or shape[dim] % tp:
        return
    rows, columns = shape
    if rows * (ranks if dim == 1 else 1) > MOST_BOXES:
        return
    runs: Iterable[Run]
    if dim == 1:
        part = columns // ranks
        runs = ((row, r * part, (r + 1) * part) for r in range(ranks) for row in range(rows))
    else:
        part = rows // ranks
        runs = ((r * part + row, 0, columns) for row in range(part) for r in range(ranks))
    own = shape[dim] // tp
    low, high = rank * own, (rank + 1) * own
    for of, box in _boxes(runs, columns):
        start, stop = max(low, box[dim][0]), min(high, box[dim][1])
        if start < stop:
            moved = of[dim][0] + start - box[dim][0]
            inside = [*of], [*box]
            inside[0][dim] = (moved, moved + stop - start)
            inside[1][dim] = (start - low, stop - low)
            yield tuple(inside[0]), tuple(inside[1])


def _boxes(runs: Iterable[Run], width: int) -> Iterator[tuple[Box, Box]]:
    """Lay runs end to end into rows of `width` elements."""
    at = 0
    for row, start, stop in runs:
        while start < stop:
            to_row, column = divmod(at, width)
            size = min(stop - start, width - column)
            yield (
                ((row, row + 1), (start, start + size)),
                ((to_row, to_row + 1), (column, column + size)),
            )
            start, at = start + size, at + size
