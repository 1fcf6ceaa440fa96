"""The pieces of a tensor as matrices in files, for the kernels; and where one element is stored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.dtypes import AS_BITS, ITEMSIZE
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.kernels.views import Added, Scaling, View
from ckptdiff.text import format_box

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly, Piece
    from ckptdiff.checkpoint import Box, TensorRef


@dataclass(frozen=True, slots=True)
class ElementPlace:
    """Where one element of a canonical tensor is stored."""

    piece: Piece
    index: tuple[int, ...]  # in the stored tensor
    offset: int  # of its first byte, from the start of the file


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of a tensor as a matrix: the last dimension is the columns.

    A vector is one row; all dimensions before the last are multiplied into rows.
    """
    if len(shape) <= 1:
        return 1, prod(shape)
    return prod(shape[:-1]), shape[-1]


def matrix_at(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (row, column) of an element in the matrix of `matrix_shape`."""
    row = 0
    for i, size in zip(index[:-1], shape[:-1], strict=True):
        row = row * size + i
    return row, index[-1] if index else 0


def index_at(position: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index in a tensor of this shape of the element at (row, column) of its matrix."""
    row, column = position
    if not shape:
        return ()
    leading = []
    for size in reversed(shape[:-1]):
        leading.append(row % size)
        row //= size
    return (*reversed(leading), column)


def view_of(piece: Piece, shape: tuple[int, ...]) -> tuple[tuple[int, int], View]:
    """Return the (row, column) at which a piece starts in the canonical matrix, and its view.

    `of` and `box` may differ in dimensions of size 1 (layers stacked in one stored tensor), in
    nothing else. Elements whose numbers are not computed become unsigned integers; a tensor whose
    elements have no offsets becomes one row of bytes. Raises UnsupportedLayout if either is not one
    rectangle of rows and columns.
    """
    ref = piece.ref
    if ref.blob_nbytes is not None:
        return (0, 0), View(str(ref.file), ref.offset, (1, ref.nbytes), (ref.nbytes, 1), "U8")
    sizes = tuple(stop - start for start, stop in piece.of)
    target_sizes = tuple(stop - start for start, stop in piece.box)
    if [size for size in sizes if size != 1] != [size for size in target_sizes if size != 1]:
        raise UnsupportedLayout(
            f"{ref.file}: {ref.name} gives {format_box(piece.of)}, "
            f"which does not fit {format_box(piece.box)}"
        )
    if not _is_row_range(piece.box, shape):
        raise UnsupportedLayout(
            f"{ref.file}: {ref.name} fills {format_box(piece.box)} of {list(shape)}, "
            f"which is no range of rows; only the first dimension may be split"
        )
    rows, columns = matrix_shape(target_sizes)
    steps = [(size, step) for size, step in zip(sizes, ref.stride, strict=True) if size != 1]
    column_step = steps.pop()[1] if columns != 1 and steps else 1
    for (_, outer), (size, inner) in pairwise(steps):
        if outer != size * inner and rows * columns:
            raise UnsupportedLayout(
                f"{ref.file}: {ref.name} {format_box(piece.of)} of {list(ref.shape)} is no matrix"
            )
    row_step = steps[-1][1] if steps else columns * column_step
    first = sum(start * step for (start, _), step in zip(piece.of, ref.stride, strict=True))
    view = View(
        file=str(ref.file),
        offset=ref.offset + first * ITEMSIZE[ref.dtype],
        shape=(rows, columns),
        stride=(row_step, column_step),
        dtype=AS_BITS.get(ref.dtype, ref.dtype),
        scaling=scaling_of(piece),
        added=added_to(piece.ref),
    )
    return matrix_at(tuple(start for start, _ in piece.box), shape), view


def scaling_of(piece: Piece) -> Scaling | None:
    """Return where the block factors of a piece are stored, or None if it is not quantised."""
    scale = piece.ref.scale
    if scale is None:
        return None
    ref = scale.ref
    (row, _), (column, _) = piece.of
    second = None if scale.second is None else _plain_view(scale.second)
    return Scaling(
        _plain_view(ref), scale.block, (row, column), scale.in_halves, second, scale.is_divisor
    )


def added_to(ref: TensorRef) -> Added | None:
    """Return what an adapter adds to a stored tensor as views, or None if there is none."""
    added = ref.added
    if added is None:
        return None
    up, down = (
        tuple(((c.box[0][0], c.box[1][0]), _plain_view(c.ref)) for c in chunks)
        for chunks in (added.up, added.down)
    )
    return Added(
        up,
        down,
        added.shape,
        added.rank,
        added.factor,
        added.origin,
        added.steps,
        added.is_rounded,
    )


def _plain_view(ref: TensorRef) -> View:
    """Return a stored matrix as a view."""
    (rows, columns), (down, across) = ref.shape, ref.stride
    return View(str(ref.file), ref.offset, (rows, columns), (down, across), ref.dtype)


def place_of(assembly: Assembly, index: tuple[int, ...]) -> ElementPlace | None:
    """Return where the element at an index of the canonical tensor is stored, or None if nowhere.

    An index below the last row is that of vocabulary padding.
    """
    for piece in (*assembly.pieces, *assembly.padding):
        if all(start <= i < stop for i, (start, stop) in zip(index, piece.box, strict=True)):
            break
    else:
        return None
    # `of` and `box` differ only in dimensions of size 1, so the others pair up in order.
    inner = [
        i - start for i, (start, stop) in zip(index, piece.box, strict=True) if stop > start + 1
    ]
    offsets = iter(inner)
    stored = tuple(start + (next(offsets) if stop > start + 1 else 0) for start, stop in piece.of)
    offset = piece.ref.offset_of(stored)
    scale = piece.ref.scale
    return ElementPlace(piece, stored, offset // 2 if scale and scale.in_halves else offset)


def _is_row_range(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether the leading dimensions of a box are consecutive rows of the matrix."""
    leading = list(zip(box[:-1], shape[:-1], strict=True))
    while leading and leading[0][0][1] - leading[0][0][0] == 1:
        del leading[0]
    return all(bounds == (0, size) for bounds, size in leading[1:])
