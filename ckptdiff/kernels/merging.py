"""Add a low-rank product to a stored matrix while it is read, exactly as PEFT merges an adapter.

PEFT holds an adapter in float32, multiplies its two matrices, multiplies the product by a factor,
and adds it to the weight: each step is rounded to float32, the sum to the dtype of the weight. Only
the order in which a product's terms are added is not told by that. It is the first to the last
here, each multiplied and added with one rounding (a fused multiply-add), as torch does on a CPU
for ranks up to 192. `limits` says what any other order can give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS, ITEMSIZE, narrower
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.kernels.casts import cast
from ckptdiff.kernels.dtypes import rounded, values
from ckptdiff.kernels.memory import RAW, stored_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ckptdiff.kernels.views import Added, Source, View

    Float32 = NDArray[np.float32]

DTYPES = frozenset({"BF16", "F16", "F32"})  # of weights that can be merged
TILE = 1 << 15  # elements: two float64 arrays of so many stay in a core's cache
_BELOW_FLOAT32 = np.uint64((1 << 29) - 1)  # the bits of a float64 that a float32 lacks
_HALFWAY = np.uint64(1 << 28)  # those bits, exactly between two float32
_SMALLEST = 2.0**-126  # the first float32 with all of its bits
_EPSILON = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}  # half a step, relative
_TINY = {"BF16": 2.0**-134, "F16": 2.0**-25, "F32": 2.0**-150}  # half the smallest step


def merged(view: View | Source, added: Added) -> NDArray[Any]:
    """Return the numbers of a view with what is added to them, in the dtype of the view.

    Raises CorruptFile and UnreadableFile, UnsupportedLayout for a dtype that is not merged.
    """
    if view.dtype not in DTYPES:
        raise UnsupportedLayout(f"{view.file}: an adapter is not added to weights of {view.dtype}")
    if 0 in view.shape:
        return stored_matrix(view)
    tiles = _Tiles(view, added)
    result = np.empty(tiles.stored.shape, tiles.stored.dtype)
    for tile, weight, up, down in tiles:
        sums = _merged(weight, up, down, added, view.dtype)
        result[tile] = sums[..., None]
    return tiles.in_shape(result)


def limits(view: View, added: Added) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest numbers that a merge can give for a view.

    Over each order in which terms can be added, and each step that programs round to a half
    precision of the adapter or of the weight. Raises as `merged` does.
    """
    tiles = _Tiles(view, added)
    ends = np.empty((2, *tiles.stored.shape))
    dtypes = {part.dtype for _, part in (*added.up, *added.down)} | {view.dtype}
    for tile, weight, up, down in tiles:
        middle = up.astype(np.float64) @ down.astype(np.float64)
        terms = np.abs(up).astype(np.float64) @ np.abs(down).astype(np.float64)
        error = terms * ((added.rank + 2) * _EPSILON["F32"]) + added.rank * _TINY["F32"]
        middle, error = middle * added.factor, error * abs(added.factor)
        # Of the product, and of the product times the factor.
        epsilon = max(_EPSILON[dtype] for dtype in dtypes)
        error += 2.01 * epsilon * (np.abs(middle) + error) + 2 * max(_TINY[d] for d in dtypes)
        number = values(weight, view.dtype)
        for end, product in zip(ends, (middle - error, middle + error), strict=True):
            whole = np.float32(product).astype(np.float64) + number
            codes, _ = cast(_float32(whole), "F32", view.dtype)
            end[tile] = values(codes, view.dtype)[..., None]
    low, high = (tiles.in_shape(end) for end in ends)
    return low, high


def product_of(view: View, added: Added) -> NDArray[np.float64]:
    """Return what is added to the numbers of a view, not rounded. Raises as `merged` does."""
    tiles = _Tiles(view, added)
    result = np.empty(tiles.stored.shape)
    for tile, _, up, down in tiles:
        product = up.astype(np.float64) @ down.astype(np.float64) * added.factor
        result[tile] = product[..., None]
    return tiles.in_shape(result)


def count_beyond(view: View, added: Added, other: NDArray[Any], dtype: str) -> int:
    """Return how many elements of another side, of a dtype, lie outside of the `limits` of a view.

    Numbers are compared in the narrower dtype. Raises as `merged` does.
    """
    if not FLOATS.keys() >= {dtype, view.dtype}:
        return other.size
    narrow = narrower(view.dtype, dtype)
    low, high = (_rounded(end, "F64", narrow) for end in limits(view, added))
    numbers = _rounded(np.ascontiguousarray(other), dtype, narrow)
    with np.errstate(invalid="ignore"):
        inside = (low <= numbers) & (numbers <= high)
    return int(np.count_nonzero(~(inside | (np.isnan(low) & np.isnan(numbers)))))


def _rounded(raw: NDArray[Any], dtype: str, to: str) -> NDArray[np.float64]:
    codes = rounded(raw, dtype, to)
    return values(codes.astype(f"<u{RAW[to].itemsize}").view(RAW[to]), to)


class _Tiles:
    """A view as a matrix of the product's rows and columns, in tiles with what is added to each."""

    def __init__(self, view: View | Source, added: Added) -> None:
        first = (view.offset - added.origin) // ITEMSIZE[view.dtype]
        row, column = _place(first, added)
        steps = [
            (0, 0) if size == 1 else _place(step, added)
            for size, step in zip(view.shape, view.stride, strict=True)
        ]
        self.shape = view.shape
        # Dimensions of the rows, of the columns, and along which elements repeat.
        self.dims = (
            [d for d, (down, _) in enumerate(steps) if down],
            [d for d, (down, across) in enumerate(steps) if across and not down],
            [d for d, (down, across) in enumerate(steps) if not down and not across],
        )
        stored = stored_matrix(view).transpose([d for dims in self.dims for d in dims])
        rows = _positions(row, ((view.shape[d], steps[d][0]) for d in self.dims[0]))
        columns = _positions(column, ((view.shape[d], steps[d][1]) for d in self.dims[1]))
        if any(down and across for down, across in steps):
            raise UnsupportedLayout(f"{view.file}: a view of an adapted tensor is no matrix")
        self.stored = np.ascontiguousarray(stored).reshape(len(rows), len(columns), -1)
        self.up = _read(added.up, (added.shape[0], added.rank), rows, range(added.rank))
        # Without `down`, what is added is a vector.
        self.down = np.ones((1, len(columns)), np.float32)
        if added.down:
            self.down = _read(added.down, (added.rank, added.shape[1]), range(added.rank), columns)

    def __iter__(self) -> Any:
        """Yield the index of each tile, its stored elements, and the parts of `up` and `down`.

        Elements that repeat are in a third dimension of the index, of which only the first is read.
        """
        height, width, _ = self.stored.shape
        across = min(width, TILE) or 1
        down = max(1, TILE // across)
        for row in range(0, height, down):
            for column in range(0, width, across):
                rows, columns = slice(row, row + down), slice(column, column + across)
                weight = self.stored[rows, columns, 0]
                yield (
                    (rows, columns),
                    np.ascontiguousarray(weight),
                    self.up[rows],
                    self.down[:, columns],
                )

    def in_shape(self, result: NDArray[Any]) -> NDArray[Any]:
        """Return a result, with rows and columns, in the view's shape."""
        order = [d for dims in self.dims for d in dims]
        shaped = result.reshape([self.shape[d] for d in order])
        return np.ascontiguousarray(shaped.transpose(np.argsort(order)))


def _place(elements: int, added: Added) -> tuple[int, int]:
    """Return rows and columns between two places of a file that are so many elements apart."""
    (height, width), (down, across) = added.shape, added.steps
    if width == 1:
        return elements // down, 0
    if height == 1:
        return 0, elements // across
    if down >= across:
        row, rest = divmod(elements, down)
        return row, rest // across
    column, rest = divmod(elements, across)
    return rest // down, column


def _positions(first: int, steps: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the rows, or columns, of the product that dimensions of these sizes and steps hold."""
    found = np.array([first])
    for size, step in steps:
        found = (found[:, None] + step * np.arange(size)).reshape(-1)
    return found


def _read(
    parts: Iterable[tuple[tuple[int, int], View]],
    shape: tuple[int, int],
    rows: Any,
    columns: Any,
) -> Float32:
    """Return some rows and columns of a matrix of an adapter in float32, as PEFT holds it."""
    rows, columns = np.asarray(rows), np.asarray(columns)
    first = (int(rows.min(initial=shape[0])), int(columns.min(initial=shape[1])))
    last = (int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1)
    whole = np.zeros((max(0, last[0] - first[0]), max(0, last[1] - first[1])), np.float32)
    for (top, left), view in parts:
        begin = max(first[0], top), max(first[1], left)
        end = min(last[0], top + view.shape[0]), min(last[1], left + view.shape[1])
        if begin[0] >= end[0] or begin[1] >= end[1]:
            continue
        part = view.crop((begin[0] - top, begin[1] - left), (end[0] - begin[0], end[1] - begin[1]))
        inside = np.s_[
            begin[0] - first[0] : end[0] - first[0], begin[1] - first[1] : end[1] - first[1]
        ]
        whole[inside] = _float32(values(stored_matrix(part), view.dtype))
    return whole[np.ix_(rows - first[0], columns - first[1])]


def _float32(numbers: NDArray[np.float64]) -> Float32:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return numbers.astype(np.float32)


def _merged(
    weight: NDArray[Any], up: Float32, down: Float32, added: Added, dtype: str
) -> NDArray[Any]:
    """Return elements with what is added to them: `weight` is (rows, columns), of RAW[dtype]."""
    number = _float32(values(weight, dtype))
    factor = np.float32(added.factor)

    def summed(number: Float32, product: Float32) -> NDArray[Any]:
        more = product * factor
        if added.is_rounded:
            more = _float32(values(cast(more, "F32", dtype)[0], dtype))
        return cast(number + more, "F32", dtype)[0]

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype == "F32":
            return summed(number, product(up, down))
        # Few elements of half precision depend on how the terms are added: those are added in
        # order where the two ends of what any order can give are not rounded to one number.
        middle = up.astype(np.float64) @ down.astype(np.float64)
        rank = up.shape[1] + 1
        terms = np.abs(up) @ np.abs(down)
        error = terms * np.float32(1.01 * rank * 2.0**-24) + np.float32(rank * 2.0**-148)
        low, high = (summed(number, _float32(middle + sign * error)) for sign in (-1, 1))
        rows, columns = np.nonzero((low != high) | ~np.isfinite(error))
        if len(rows):
            exact = _in_order(up[rows].T, down[:, columns])
            low[rows, columns] = summed(number[rows, columns], exact)
    return low


def product(up: Float32, down: Float32) -> Float32:
    """Return the product of (rows, rank) and (rank, columns), terms added from first to last."""
    return _in_order(up.T[:, :, None], down[:, None, :])


def _in_order(one: Float32, other: Float32) -> Float32:
    """Return the sum of the products along the first dimension, by fused multiply-adds."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    total = np.zeros(np.broadcast_shapes(one.shape[1:], other.shape[1:]), np.float32)
    term = np.empty(total.shape)
    for x, y in zip(one, other, strict=True):
        np.multiply(x, y, out=term)  # exact: both have 24 bits
        _add(term, total)
    return total


def _add(term: NDArray[np.float64], total: Float32) -> None:
    """Add exact products to a sum in float32, with one rounding."""
    wide = term + total
    bits = wide.view(np.uint64)
    # A float64 has room for two roundings to be one, but where it is halfway between two float32,
    # or a float32 has fewer bits than it mostly has.
    doubtful = (bits & _BELOW_FLOAT32) == _HALFWAY
    doubtful |= np.abs(wide) < _SMALLEST
    if doubtful.any():
        x, y, near = term[doubtful], total[doubtful].astype(np.float64), wide[doubtful]
        shift = near - x
        left = (x - (near - shift)) + (y - shift)  # what the sum in float64 lost, exactly
        codes = near.view(np.uint64)
        odd = (codes & np.uint64(1)) == 1
        away = np.nextafter(near, np.where(left > 0, np.inf, -np.inf))
        wide[doubtful] = np.where((left != 0) & ~odd & np.isfinite(near), away, near)
    total[...] = wide
