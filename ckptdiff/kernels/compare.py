"""Compare two matrices in mapped files: memcmp first, arithmetic only where bits differ."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS, INTEGERS, ITEMSIZE
from ckptdiff.kernels import exact, fast
from ckptdiff.kernels.grid import HeatGrid
from ckptdiff.kernels.memory import PageReleaser, matrix, same_bits
from ckptdiff.kernels.scales import dequantised, number_dtype, same_factors
from ckptdiff.kernels.stats import Stats
from ckptdiff.kernels.views import Block, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MEMCMP_BYTES = 2 << 20  # bytes of one side that one memcmp compares
READ_BYTES = 4 << 20  # bytes of one side in one piece, gaps between rows included
TILE = 512  # columns of a tile where the elements of a row are not adjacent


def compare_blocks(
    shape: tuple[int, int],
    blocks: Sequence[Block],
    copies: Sequence[tuple[View, View]] = (),
    *,
    norms: bool = False,
) -> Stats:
    """Measure the given rectangles of a tensor of this shape (rows, columns), and its copies.

    `copies` are pairs of an original and a copy. Norms are left out when every bit is equal, unless
    `norms` asks for them. Memory stays flat: pages are unmapped as soon as they are read.
    Raises CorruptFile and UnreadableFile.
    """
    stats = Stats()
    grid = HeatGrid(shape)
    equal: list[View] = []
    with PageReleaser() as pages:
        # In row order, so that each page is read once even where only one side is split by columns.
        for piece in sorted(_pieces(blocks), key=attrgetter("at")):
            _compare_piece(piece, stats, grid, equal)
            pages.done(piece.a, piece.b)
        # With nothing but equal bits the cosine is 1, whatever the norms are.
        stats.normed = norms or not equal or sum(map(_numel, equal)) < stats.numel
        for view in equal if stats.normed else ():
            total = _sum_of_squares(view)
            stats.sum_aa += total
            stats.sum_bb += total
            pages.done(view)
        for index, pair in enumerate(copies):
            count = 0
            for piece in _pieces([Block((0, 0), *pair)]):
                count += _count_drifted(piece.a, piece.b)
                pages.done(piece.a, piece.b)
            if count:
                stats.copies_differ.append((index, count))
    stats.grid, stats.grid_shape = grid.levels(), grid.shape
    return stats


def _numel(view: View) -> int:
    return view.shape[0] * view.shape[1]


def _has_dense_rows(view: View) -> bool:
    """Return whether the elements of each row are adjacent in the file."""
    return view.stride[1] == 1 or view.shape[1] == 1


def _pieces(blocks: Iterable[Block]) -> Iterator[Block]:
    """Split blocks into pieces small enough for all their pages to stay mapped at once."""
    for block in blocks:
        a, b = block.a, block.b
        assert a.shape == b.shape
        rows, cols = a.shape
        size = max(ITEMSIZE[a.dtype], ITEMSIZE[b.dtype])
        if _has_dense_rows(a) and _has_dense_rows(b):
            across = max(1, min(cols, READ_BYTES // size))
            longest = max(a.stride[0], b.stride[0], across) * size
            down = max(1, READ_BYTES // longest) if across == cols else 1
        else:
            # Every part of a transposed matrix touches pages all over it: it stays whole.
            across, down = max(1, cols), max(1, rows)
        for row in range(0, rows, down):
            for col in range(0, cols, across):
                at = (row, col)
                extent = (min(down, rows - row), min(across, cols - col))
                place = (block.at[0] + row, block.at[1] + col)
                yield Block(place, a.crop(at, extent), b.crop(at, extent))


def _tiles(a: View, b: View, size: int) -> Iterator[tuple[int, int, NDArray[Any], NDArray[Any]]]:
    """Yield row, column and both sides of tiles of at most `size` elements, with dense rows.

    Both arrays of a tile have the shape (rows, columns).
    """
    x, y = matrix(a), matrix(b)
    dense = _has_dense_rows(a) and _has_dense_rows(b)
    for row, col, tile in exact.tiles(a.shape, size, x.shape[1] if dense else TILE):
        if dense:
            yield row, col, x[tile], y[tile]
        else:
            yield row, col, np.ascontiguousarray(x[tile]), np.ascontiguousarray(y[tile])


def _compare_piece(piece: Block, stats: Stats, grid: HeatGrid, equal: list[View]) -> None:
    """Add a piece's figures, and append to `equal` the parts of `a` that are bit-equal to `b`."""
    stats.numel += _numel(piece.a)
    if piece.a.scaling is not None or piece.b.scaling is not None:
        _compare_scaled(piece, stats, grid, equal)
        return
    dtypes = (piece.a.dtype, piece.b.dtype)
    same = dtypes[0] == dtypes[1]
    measurable = fast.DTYPES.issuperset(dtypes)
    most = MEMCMP_BYTES // ITEMSIZE[dtypes[0]] if same else fast.ELEMENTS
    for row, col, a, b in _tiles(piece.a, piece.b, most):
        if same and same_bits(a, b):
            _count_equal(a if a.flags.c_contiguous else b, dtypes[0], stats)
            equal.append(piece.a.crop((row, col), a.shape))
            continue
        for down, right, tile in exact.tiles(a.shape, fast.ELEMENTS):
            x, y = a[tile], b[tile]
            at = (row + down, col + right)
            if same and same_bits(x, y):
                _count_equal(x, dtypes[0], stats)
                equal.append(piece.a.crop(at, x.shape))
                continue
            place = (piece.at[0] + at[0], piece.at[1] + at[1])
            unequal = stats.unequal
            if not (measurable and fast.measure(x, y, dtypes, place, stats, grid)):
                _measure_in_parts(x, y, dtypes, place, stats, grid)
            if stats.unequal > unequal:
                stats.beyond += _count_beyond(piece, at, x.shape, y, stats.unequal - unequal)


def _count_beyond(
    piece: Block, at: tuple[int, int], shape: Any, other: NDArray[Any], unequal: int
) -> int:
    """Return how many elements of B no order of adding an adapter's terms to A gives."""
    if piece.a.added is None:
        return unequal
    from ckptdiff.kernels.merging import count_beyond

    return count_beyond(piece.a.crop(at, shape), piece.a.added, other, piece.b.dtype)


def _compare_scaled(piece: Block, stats: Stats, grid: HeatGrid, equal: list[View]) -> None:
    """Compare quantised matrices by their dequantised numbers, bits where the factors are equal."""
    same = same_factors(piece.a, piece.b)
    dtypes = number_dtype(piece.a), number_dtype(piece.b)
    measurable = fast.DTYPES.issuperset(dtypes)
    whole_a, whole_b = matrix(piece.a), matrix(piece.b)
    for row, col, tile in exact.tiles(piece.a.shape, fast.ELEMENTS):
        x, y = whole_a[tile], whole_b[tile]
        at = (row, col)
        if same and np.array_equal(x, y):
            _count_equal(np.ascontiguousarray(x), piece.a.dtype, stats)
            equal.append(piece.a.crop(at, x.shape))
            continue
        place = (piece.at[0] + row, piece.at[1] + col)
        x = np.ascontiguousarray(dequantised(x, piece.a, at))
        y = np.ascontiguousarray(dequantised(y, piece.b, at))
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
    """Measure a tile that `fast` refused, part by part: only the parts it refuses go to `exact`.

    Both arrays have the shape (rows, columns); `at` is the first element's row and column.
    """
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
    """Return True only if no element is NaN or infinite. False may be wrong for 8-bit formats."""
    if dtype in INTEGERS:
        return True
    if dtype not in FLOATS or not a.size:
        return False
    size = a.itemsize
    # In every format, 2.0 is the code with only the highest exponent bit set. Where no element has
    # that bit, all are below 2. One pass over 64-bit words shows it.
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


# By item size: a 64-bit mask of the highest exponent bit of each element.
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
    """Return how many elements of a copy differ in a bit from the original; all if dtypes do."""
    if original.dtype != copy.dtype:
        return _numel(original)
    return sum(
        0 if same_bits(a, b) else exact.count_different_bits(a, b)
        for _, _, a, b in _tiles(original, copy, MEMCMP_BYTES // ITEMSIZE[original.dtype])
    )
