"""Measure a rectangle in float64: any two dtypes, NaN and infinity, huge and tiny values.

Slow and plain. `fast` measures the common case and leaves to this module all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import INTEGERS, narrower
from ckptdiff.kernels.dtypes import (
    WIDE,
    bit_lengths,
    bits,
    finite,
    integer_distance,
    rounded,
    ulp_distance,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptdiff.kernels.grid import HeatGrid
    from ckptdiff.kernels.stats import Stats

ELEMENTS = 1 << 14  # of one tile: a dozen float64 temporaries of that size stay in the cache


def tiles(
    shape: tuple[int, ...], elements: int = ELEMENTS, width: int | None = None
) -> Iterator[tuple[int, int, Any]]:
    """Yield row, column and slices of tiles that cover a matrix of this shape.

    A tile has at most `elements` elements and `width` columns: whole rows where they fit.
    """
    rows, cols = shape
    across = max(1, min(cols, width or cols, elements))
    down = max(1, elements // across)
    for row in range(0, rows, down):
        for col in range(0, cols, across):
            yield row, col, np.s_[row : row + down, col : col + across]


def measure(
    a: NDArray[Any],
    b: NDArray[Any],
    dtypes: tuple[str, str],
    at: tuple[int, int],
    stats: Stats,
    grid: HeatGrid,
) -> None:
    """Add to `stats` and `grid` all figures of a rectangle whose first element is at `at`.

    `a` and `b` have the shape (rows, columns) and the numpy dtypes `RAW[dtypes[0]]` and
    `RAW[dtypes[1]]`. `at` is a row and a column of the whole matrix.
    """
    for row, col, tile in tiles(a.shape):
        _measure(a[tile], b[tile], dtypes, (at[0] + row, at[1] + col), stats, grid)


def _measure(
    a: NDArray[Any],
    b: NDArray[Any],
    dtypes: tuple[str, str],
    at: tuple[int, int],
    stats: Stats,
    grid: HeatGrid,
) -> None:
    shape = a.shape
    a, b = a.reshape(-1), b.reshape(-1)
    x, y = values(a, dtypes[0]), values(b, dtypes[1])
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    finite_x, finite_y = np.isfinite(x), np.isfinite(y)
    both_finite = finite_x & finite_y
    # F8_E4M3 has no infinity to round one to, but NaN against infinity is still a difference.
    one_sided = (finite_x ^ finite_y) | (nan_x ^ nan_y)

    if INTEGERS.issuperset(dtypes):
        steps = integer_distance(a, b)
        bits_differ = values_differ = steps > 0
        out_of_range = np.zeros_like(both_finite)
        deltas = steps.astype(np.float64)
    else:
        narrow = narrower(*dtypes)
        code_x, code_y = rounded(a, dtypes[0], narrow), rounded(b, dtypes[1], narrow)
        steps = ulp_distance(code_x, code_y, narrow)
        bits_differ = code_x != code_y
        values_differ = (steps > 0) & ~(nan_x & nan_y) | one_sided
        if dtypes[0] != dtypes[1]:
            bits_differ = bits_differ & ~(nan_x & nan_y) | one_sided
        # A cast cannot explain a number out of range, even where the other side is infinite.
        out_of_range = both_finite & ~(finite(code_x, narrow) & finite(code_y, narrow))
        with np.errstate(invalid="ignore", over="ignore"):
            deltas = np.abs(x - y)

    stats.differing += int(np.count_nonzero(bits_differ))
    stats.unequal += int(np.count_nonzero(values_differ))
    inexcusable = values_differ & ~both_finite | out_of_range
    if inexcusable.any():
        stats.inexcusable += int(np.count_nonzero(inexcusable))
        rows, cols = np.divmod(np.flatnonzero(inexcusable), shape[1])
        grid.mark(rows + at[0], cols + at[1])
    stats.nan_a += int(np.count_nonzero(nan_x))
    stats.nan_b += int(np.count_nonzero(nan_y))
    stats.inf_a += int(np.count_nonzero(~finite_x & ~nan_x))
    stats.inf_b += int(np.count_nonzero(~finite_y & ~nan_y))

    x, y, deltas = (np.where(both_finite, numbers, 0.0) for numbers in (x, y, deltas))
    with np.errstate(over="ignore"):
        stats.sum_abs += float(deltas.sum())
        stats.sum_aa += float((x * x).sum())
        stats.sum_bb += float((y * y).sum())
        stats.sum_dd += float((deltas * deltas).sum())
        float32_deltas = deltas.astype(np.float32)
    grid.absorb(float32_deltas.reshape(shape), at)
    if WIDE.isdisjoint(dtypes):
        # As `fast` rounds them: a figure must not depend on which of the two measured the tile.
        deltas = np.where(np.isinf(float32_deltas), deltas, float32_deltas.astype(np.float64))
    if deltas.size and deltas.max() > 0:
        row, col = divmod(int(deltas.argmax()), shape[1])
        stats.peak(float(deltas.max()), (at[0] + row, at[1] + col))

    steps = steps[both_finite & ~out_of_range]
    if steps.size:
        stats.max_ulp = max(stats.max_ulp, int(steps.max()))
        stats.count(bit_lengths(steps))


def count_non_finite(a: NDArray[Any], dtype: str) -> tuple[int, int]:
    """Return how many elements of a matrix are NaN, and how many are infinite."""
    nan = inf = 0
    for _, _, tile in tiles(a.shape):
        part = values(a[tile], dtype)
        nan += int(np.count_nonzero(np.isnan(part)))
        inf += int(np.count_nonzero(np.isinf(part)))
    return nan, inf


def sum_of_squares(a: NDArray[Any], dtype: str) -> float:
    """Return the sum of the squares of a matrix's finite elements, in float64."""
    total = 0.0
    for _, _, tile in tiles(a.shape):
        part = values(a[tile], dtype).reshape(-1)
        part = np.where(np.isfinite(part), part, 0.0)
        with np.errstate(over="ignore"):
            total += float((part * part).sum())
    return total


def count_different_bits(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Return how many elements of two matrices of one dtype differ in a bit."""
    return sum(
        int(np.count_nonzero(bits(a[tile]) != bits(b[tile]))) for _, _, tile in tiles(a.shape)
    )
