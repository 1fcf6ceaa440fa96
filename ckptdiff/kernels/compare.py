"""Compare two matrices where they lie: memcmp first, arithmetic only where the bits differ."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS, INTEGERS, ITEMSIZE
from ckptdiff.kernels import exact, fast
from ckptdiff.kernels.grid import HeatGrid
from ckptdiff.kernels.memory import Reading, matrix, same_bits
from ckptdiff.kernels.scales import dequantised, number_dtype, same_factors
from ckptdiff.kernels.stats import Stats
from ckptdiff.kernels.views import Block, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MEMCMP_BYTES = 2 << 20  # bytes of one side that one memcmp looks at
READ_BYTES = 4 << 20  # bytes of one side, gaps between rows included, that are read in one go
TILE = 512  # columns of a tile where rows do not lie in one piece


def compare_blocks(
    shape: tuple[int, int],
    blocks: Sequence[Block],
    copies: Sequence[tuple[View, View]] = (),
    *,
    norms: bool = False,
) -> Stats:
    """Measure the given rectangles of a tensor of this shape, and check its copies.

    Norms of equal data are left out when all of it is bit-equal, unless they are asked for.
    Memory stays flat: pages are let go as soon as they are read.
    Raises CorruptFile and UnreadableFile.
    """
    stats = Stats()
    grid = HeatGrid(shape)
    equal: list[View] = []
    with Reading() as reading:
        # By rows: what lies side by side in one file, in pieces in the other, is read once.
        for read in sorted(_reads(blocks), key=attrgetter("at")):
            _compare_span(read, stats, grid, equal)
            reading.done(read.a, read.b)
        # With nothing but equal bits the cosine is 1, whatever the norms are.
        stats.normed = norms or not equal or sum(map(_numel, equal)) < stats.numel
        for view in equal if stats.normed else ():
            total = _sum_of_squares(view)
            stats.sum_aa += total
            stats.sum_bb += total
            reading.done(view)
        for index, pair in enumerate(copies):
            count = 0
            for read in _reads([Block((0, 0), *pair)]):
                count += _count_drifted(read.a, read.b)
                reading.done(read.a, read.b)
            if count:
                stats.copies_differ.append((index, count))
    stats.grid, stats.grid_shape = grid.levels(), grid.shape
    return stats


def _numel(view: View) -> int:
    return view.shape[0] * view.shape[1]


def _is_whole(view: View) -> bool:
    """Return whether each row lies in one piece."""
    return view.stride[1] == 1 or view.shape[1] == 1


def _reads(blocks: Iterable[Block]) -> Iterator[Block]:
    """Cut blocks so that what one touches may stay mapped."""
    for block in blocks:
        a, b = block.a, block.b
        assert a.shape == b.shape
        rows, cols = a.shape
        size = max(ITEMSIZE[a.dtype], ITEMSIZE[b.dtype])
        if _is_whole(a) and _is_whole(b):
            across = max(1, min(cols, READ_BYTES // size))
            longest = max(a.stride[0], b.stride[0], across) * size
            down = max(1, READ_BYTES // longest) if across == cols else 1
        else:
            # Every part of a transposed matrix touches pages all over it.
            across, down = max(1, cols), max(1, rows)
        for row in range(0, rows, down):
            for col in range(0, cols, across):
                at = (row, col)
                extent = (min(down, rows - row), min(across, cols - col))
                place = (block.at[0] + row, block.at[1] + col)
                yield Block(place, a.crop(at, extent), b.crop(at, extent))


def _tiles(a: View, b: View, size: int) -> Iterator[tuple[int, int, NDArray[Any], NDArray[Any]]]:
    """Yield row, column and both sides of tiles of `size` elements, their rows in one piece."""
    x, y = matrix(a), matrix(b)
    whole = _is_whole(a) and _is_whole(b)
    for row, col, tile in exact.tiles(a.shape, size, x.shape[1] if whole else TILE):
        if whole:
            yield row, col, x[tile], y[tile]
        else:
            yield row, col, np.ascontiguousarray(x[tile]), np.ascontiguousarray(y[tile])


def _compare_span(read: Block, stats: Stats, grid: HeatGrid, equal: list[View]) -> None:
    """Add a read's figures, and note the parts of `a` whose bits are equal to those of `b`."""
    stats.numel += _numel(read.a)
    if read.a.scaling is not None or read.b.scaling is not None:
        _compare_scaled(read, stats, grid, equal)
        return
    dtypes = (read.a.dtype, read.b.dtype)
    same = dtypes[0] == dtypes[1]
    measurable = fast.DTYPES.issuperset(dtypes)
    most = MEMCMP_BYTES // ITEMSIZE[dtypes[0]] if same else fast.ELEMENTS
    for row, col, a, b in _tiles(read.a, read.b, most):
        if same and same_bits(a, b):
            _count_equal(a if a.flags.c_contiguous else b, dtypes[0], stats)
            equal.append(read.a.crop((row, col), a.shape))
            continue
        for down, right, tile in exact.tiles(a.shape, fast.ELEMENTS):
            x, y = a[tile], b[tile]
            at = (row + down, col + right)
            if same and same_bits(x, y):
                _count_equal(x, dtypes[0], stats)
                equal.append(read.a.crop(at, x.shape))
                continue
            place = (read.at[0] + at[0], read.at[1] + at[1])
            if not (measurable and fast.measure(x, y, dtypes, place, stats, grid)):
                _measure_in_parts(x, y, dtypes, place, stats, grid)


def _compare_scaled(read: Block, stats: Stats, grid: HeatGrid, equal: list[View]) -> None:
    """Compare the numbers that block factors make of codes; equal codes and factors are equal."""
    same = same_factors(read.a, read.b)
    dtypes = number_dtype(read.a), number_dtype(read.b)
    measurable = fast.DTYPES.issuperset(dtypes)
    for row, col, tile in exact.tiles(read.a.shape, fast.ELEMENTS):
        x, y = matrix(read.a)[tile], matrix(read.b)[tile]
        at = (row, col)
        if same and np.array_equal(x, y):
            _count_equal(np.ascontiguousarray(x), read.a.dtype, stats)
            equal.append(read.a.crop(at, x.shape))
            continue
        place = (read.at[0] + row, read.at[1] + col)
        x = np.ascontiguousarray(dequantised(x, read.a, at))
        y = np.ascontiguousarray(dequantised(y, read.b, at))
        if not (measurable and fast.measure(x, y, dtypes, place, stats, grid)):
            _measure_in_parts(x, y, dtypes, place, stats, grid)


def _measure_in_parts(
    a: NDArray[Any],
    b: NDArray[Any],
    dtypes: tuple[str, str],
    at: tuple[int, int],
    stats: Stats,
    grid: HeatGrid,
) -> None:
    """Measure a tile that is not all ordinary: exactly, but only near what is not."""
    for row, col, tile in exact.tiles(a.shape, exact.ELEMENTS):
        place = (at[0] + row, at[1] + col)
        x, y = a[tile], b[tile]
        if not (fast.DTYPES.issuperset(dtypes) and fast.measure(x, y, dtypes, place, stats, grid)):
            exact.measure(x, y, dtypes, place, stats, grid)


def _count_equal(a: NDArray[Any], dtype: str, stats: Stats) -> None:
    nan, inf = (0, 0) if _is_finite(a, dtype) else exact.count_non_finite(a, dtype)
    stats.nan_a += nan
    stats.nan_b += nan
    stats.inf_a += inf
    stats.inf_b += inf
    stats.count([a.size - nan - inf])


def _is_finite(a: NDArray[Any], dtype: str) -> bool:
    """Return True if no element can be NaN or infinite; False may be wrong for tiny formats."""
    if dtype in INTEGERS:
        return True
    if dtype not in FLOATS or not a.size:
        return False
    size = a.itemsize
    # 2.0 is the code with nothing but the highest bit of the exponent set, in every format. Where
    # no element has that bit, all are below 2, and one pass over wide words shows it.
    words = a.reshape(-1) if a.flags.c_contiguous else a
    if a.flags.aligned and words.shape[-1] * size % 8 == 0:
        seen = int(np.bitwise_or.reduce(words.view(np.uint64), axis=None))
        if not seen & _TWO_OR_MORE[size]:
            return True
    overflow = FLOATS[dtype].overflow
    sign = 1 << (8 * size - 1)
    return (
        int(a.view(f"<i{size}").max()) < overflow
        and int(a.view(f"<u{size}").max()) < overflow + sign
    )


# The highest bit of the exponent, in each element of eight bytes, by the size of an element.
_TWO_OR_MORE = {
    size: sum(0x40 << 8 * (last - 1) for last in range(size, 9, size)) for size in (1, 2, 4, 8)
}


def _sum_of_squares(view: View) -> float:
    total = 0.0
    dtype = number_dtype(view)
    for row, col, a, _ in _tiles(view, view, fast.ELEMENTS):
        a = dequantised(a, view, (row, col))
        squares = fast.sum_of_squares(a, dtype) if dtype in fast.DTYPES else None
        total += exact.sum_of_squares(a, dtype) if squares is None else squares
    return total


def _count_drifted(original: View, copy: View) -> int:
    """Return how many elements of a copy are not, bit for bit, those of the original."""
    if original.dtype != copy.dtype:
        return _numel(original)
    return sum(
        0 if same_bits(a, b) else exact.count_different_bits(a, b)
        for _, _, a, b in _tiles(original, copy, MEMCMP_BYTES // ITEMSIZE[original.dtype])
    )
