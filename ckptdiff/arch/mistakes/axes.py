"""Mistakes in the split dimension: shards of the right shape with elements in another order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.checkpoint import Box

    # (shape of the whole tensor, TP, rank) -> (box of the whole, box of the rank's shard)
    Boxes = Callable[[tuple[int, ...], int, int], Iterable[tuple[Box, Box]]]
    Run = tuple[int, int, int]  # a row of the whole tensor, first column, column behind the last

MAX_BOXES = 1 << 16  # a tensor with more rows is not tried: each row is a box or more


def other_axis(dim: int, tp: int) -> Iterator[tuple[str, Boxes]]:
    """Yield (key, boxes) of mistakes with a matrix that is split along `dim`.

    Split along the other dimension, or merged from 2 to 16 ranks along it; then reshaped.
    """
    if tp > 1:
        yield "cut-along-other", partial(_split_along_other, dim)
    for ranks in (2, 4, 8, 16):
        yield f"joined-along-other-{ranks}", partial(_merged_along_other, dim, ranks)


def halves_exchanged(shape: tuple[int, ...], tp: int, rank: int) -> list[tuple[Box, Box]]:
    """Return the boxes that exchange the left and the right half of a rank's rows."""
    rows, half = (rank * shape[0] // tp, (rank + 1) * shape[0] // tp), shape[1] // 2
    own = (0, rows[1] - rows[0])
    left, right = (0, half), (half, 2 * half)
    return [((rows, right), (own, left)), ((rows, left), (own, right))]


def _split_along_other(
    dim: int, shape: tuple[int, ...], tp: int, rank: int
) -> Iterable[tuple[Box, Box]]:
    """Split the whole along the other dimension and reshape each part to a shard."""
    if len(shape) != 2 or shape[0] % tp or shape[1] % tp or shape[0] > MAX_BOXES:
        return ()
    rows, columns = shape
    if dim == 1:  # a shard should be columns, and is rows
        first = rank * rows // tp
        runs = ((row, 0, columns) for row in range(first, first + rows // tp))
        return _boxes(runs, columns // tp)
    first = rank * columns // tp
    return _boxes(((row, first, first + columns // tp) for row in range(rows)), columns)


def _merged_along_other(
    dim: int, ranks: int, shape: tuple[int, ...], tp: int, rank: int
) -> Iterator[tuple[Box, Box]]:
    """Concatenate shards of `ranks` along the other dimension, reshape, and split along `dim`."""
    if len(shape) != 2 or shape[dim] % ranks or shape[dim] % tp:
        return
    rows, columns = shape
    if rows * (ranks if dim == 1 else 1) > MAX_BOXES:
        return
    runs: Iterable[Run]
    if dim == 1:
        width = columns // ranks
        runs = ((row, r * width, (r + 1) * width) for r in range(ranks) for row in range(rows))
    else:
        height = rows // ranks
        runs = ((r * height + row, 0, columns) for row in range(height) for r in range(ranks))
    size = shape[dim] // tp
    low, high = rank * size, (rank + 1) * size
    for of, box in _boxes(runs, columns):
        start, stop = max(low, box[dim][0]), min(high, box[dim][1])
        if start < stop:
            source_start = of[dim][0] + start - box[dim][0]
            of_part, shard_part = [*of], [*box]
            of_part[dim] = (source_start, source_start + stop - start)
            shard_part[dim] = (start - low, stop - low)
            yield tuple(of_part), tuple(shard_part)


def _boxes(runs: Iterable[Run], width: int) -> Iterator[tuple[Box, Box]]:
    """Yield (box of the whole, box of the result) for runs laid end to end in rows of `width`."""
    filled = 0
    for row, start, stop in runs:
        while start < stop:
            to_row, column = divmod(filled, width)
            size = min(stop - start, width - column)
            yield (
                ((row, row + 1), (start, start + size)),
                ((to_row, to_row + 1), (column, column + size)),
            )
            start, filled = start + size, filled + size
