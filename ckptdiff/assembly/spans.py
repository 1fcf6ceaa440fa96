"""Split a tensor to be written into spans of its file, each with the sources that fill it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Pieces, intersection
from ckptdiff.assembly.views import added_to, scaling_of
from ckptdiff.checkpoint import TensorRef, row_major
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.views import Source, Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembly, Piece
    from ckptdiff.checkpoint import Box


def spans_of(tensor: Assembly, offset: int, max_bytes: int) -> Iterator[Span]:
    """Yield spans of at most `max_bytes` bytes that write a tensor, from byte `offset` on."""
    if tensor.is_blob:
        tensor = _as_bytes(tensor)
    itemsize = ITEMSIZE[tensor.dtype]
    pieces = Pieces(tensor.pieces)
    for box in row_major(tensor.shape, max(1, max_bytes // itemsize)):
        sources = []
        for piece in pieces.meeting(box):
            inner = intersection(piece.box, box)
            if inner is not None:
                sources.append(_source(piece.inside(inner), box, tensor.name))
        shape = tuple(stop - start for start, stop in box)
        yield Span(offset, shape, tensor.dtype, tuple(sources))
        offset += prod(shape) * itemsize


def _as_bytes(tensor: Assembly) -> Assembly:
    """Return the recipe of the bytes of a tensor whose elements have no offsets."""
    (piece,) = tensor.pieces
    box = ((0, tensor.nbytes),)
    ref = TensorRef(piece.ref.name, (tensor.nbytes,), "U8", piece.ref.file, piece.ref.offset, (1,))
    whole = replace(piece, ref=ref, of=box, box=box)
    return replace(tensor, shape=ref.shape, dtype=ref.dtype, pieces=(whole,))


def _source(piece: Piece, span_box: Box, name: str) -> Source:
    """Return where a piece is stored and which box of the span, `span_box`, it fills."""
    ref = piece.ref
    sizes = tuple(stop - start for start, stop in piece.box)
    steps = iter(
        step for (start, stop), step in zip(piece.of, ref.stride, strict=True) if stop - start != 1
    )
    return Source(
        str(ref.file),
        ref.offset_of(tuple(start for start, _ in piece.of)),
        sizes,
        tuple(next(steps) if size != 1 else 0 for size in sizes),
        ref.dtype,
        tuple(
            (target[0] - origin[0], target[1] - origin[0])
            for target, origin in zip(piece.box, span_box, strict=True)
        ),
        piece.part_of or name,
        scaling_of(piece),
        added_to(ref),
        _matrix_dims(piece),
    )


def _matrix_dims(piece: Piece) -> tuple[int, int]:
    """Return which dimensions of a piece's box are the rows and columns that are scaled."""
    if piece.ref.scale is None or len(piece.box) == len(piece.of):
        return -2, -1
    # `of` and `box` differ in dimensions of size 1 alone, and any of those will do for one of them.
    wide = [dim for dim, (start, stop) in enumerate(piece.box) if stop - start != 1]
    narrow = [dim for dim, (start, stop) in enumerate(piece.box) if stop - start == 1]
    dims = [wide.pop(0) if stop - start != 1 else narrow.pop() for start, stop in piece.of]
    return dims[0], dims[1]
