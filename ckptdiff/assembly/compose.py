"""Build the recipe of a tensor to be written from the recipes of the tensors that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembly, Piece, Pieces, intersection, transposed
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.checkpoint import Box


PADDING = "padding"


@dataclass(frozen=True, slots=True)
class RecipePart:
    """Box `of` of the tensor `source` fills box `box` of the tensor to be written.

    Both boxes have the same shape, but for dimensions of size 1, which either may have more of.
    """

    source: Assembly
    of: Box
    box: Box


def compose(name: str, shape: tuple[int, ...], dtype: str, parts: Iterable[RecipePart]) -> Assembly:
    """Return the recipe of a tensor that the parts fill, each element once.

    Its pieces are pieces of stored tensors. Copies are left out: only the first of each is read.
    """
    pieces_of: dict[int, Pieces] = {}
    pieces: list[Piece] = []
    for part in parts:
        source = part.source
        if id(source) not in pieces_of:
            pieces_of[id(source)] = Pieces(source.pieces)
        for piece in pieces_of[id(source)].meeting(part.of):
            inner = intersection(piece.box, part.of)
            if inner is not None:
                box = _target_box(inner, part.of, part.box)
                own = piece.inside(inner)
                pieces.append(replace(own, box=box, copies=(), part_of=own.part_of or source.name))
    assert sum(prod(stop - start for start, stop in p.box) for p in pieces) == prod(shape), name
    return Assembly(name, shape, dtype, tuple(pieces))


def renamed(source: Assembly, name: str) -> Assembly:
    """Return the recipe of a whole tensor under another name."""
    return cut_out(source, tuple((0, size) for size in source.shape), name)


def cut_out(source: Assembly, of: Box, name: str | None = None) -> Assembly:
    """Return the recipe of box `of` of a tensor, under its own name or another."""
    shape = tuple(stop - start for start, stop in of)
    box = tuple((0, size) for size in shape)
    return compose(name or source.name, shape, source.dtype, [RecipePart(source, of, box)])


def rows_of(source: Assembly, start: int, stop: int, name: str | None = None) -> Assembly:
    """Return the recipe of rows `start:stop` of a tensor."""
    rest = tuple((0, size) for size in source.shape[1:])
    return cut_out(source, ((start, stop), *rest), name)


def last_row_repeated(source: Assembly, rows: int) -> Assembly:
    """Return the recipe of `rows` rows, each equal to the last row of a tensor.

    Megatron's converter pads the vocabulary in this way. Raises UnsupportedLayout for a quantised
    tensor.
    """
    end = source.shape[0]
    box = ((end - 1, end), *((0, size) for size in source.shape[1:]))
    pieces = []
    for piece in source.pieces:
        inner = intersection(piece.box, box)
        if inner is not None:
            row = piece.inside(inner)
            if row.ref.scale is not None:
                raise UnsupportedLayout(f"{source.name}: a quantised vocabulary cannot be padded")
            first, *others = row.of
            ref = replace(
                row.ref,
                shape=(rows, *row.ref.shape[1:]),
                stride=(0, *row.ref.stride[1:]),
                offset=row.ref.offset_of((first[0], *(0 for _ in others))),
            )
            pieces.append(Piece(ref, row.rank, ((0, rows), *others), ((0, rows), *inner[1:])))
    return Assembly(PADDING, (rows, *source.shape[1:]), source.dtype, tuple(pieces))


def transpose(source: Assembly) -> Assembly:
    """Return the recipe of a matrix's transpose."""
    return replace(
        source,
        shape=source.shape[::-1],
        pieces=tuple(
            Piece(transposed(p.ref), p.rank, p.of[::-1], p.box[::-1]) for p in source.pieces
        ),
    )


def _target_box(inner: Box, of: Box, box: Box) -> Box:
    """Return the box that `inner`, a part of `of`, fills when `of` fills `box`."""
    if len(of) == len(box):
        return tuple(
            (target[0] + part[0] - source[0], target[0] + part[1] - source[0])
            for part, source, target in zip(inner, of, box, strict=True)
        )
    offsets = iter(
        [
            (part[0] - source[0], part[1] - source[0])
            for part, source in zip(inner, of, strict=True)
            if _has_extent(source)
        ]
    )
    return tuple(
        (target[0] + offset[0], target[0] + offset[1]) if offset is not None else target
        for target in box
        for offset in [next(offsets) if _has_extent(target) else None]
    )


def _has_extent(bounds: tuple[int, int]) -> bool:
    return bounds[1] - bounds[0] != 1
