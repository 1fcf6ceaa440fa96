"""Make recipes of recipes: a tensor to be written, out of the places where its parts are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembly, Piece, Pieces, common, transposed
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.checkpoint import Box


PADDING = "padding"


@dataclass(frozen=True, slots=True)
class RecipePart:
    """Box `of` of a tensor fills box `box` of another; dimensions of size one may come and go."""

    source: Assembly
    of: Box
    box: Box


def compose(name: str, shape: tuple[int, ...], dtype: str, parts: Iterable[RecipePart]) -> Assembly:
    """Return the recipe of the tensor that the parts fill, down to the stored tensors.

    Copies are left out: it is the first of each that is read.
    """
    known: dict[int, Pieces] = {}
    pieces: list[Piece] = []
    for part in parts:
        source = part.source
        if id(source) not in known:
            known[id(source)] = Pieces(source.pieces)
        for piece in known[id(source)].meeting(part.of):
            inner = common(piece.box, part.of)
            if inner is not None:
                box = _moved(inner, part.of, part.box)
                own = piece.inside(inner)
                pieces.append(replace(own, box=box, copies=(), part_of=own.part_of or source.name))
    assert sum(prod(stop - start for start, stop in p.box) for p in pieces) == prod(shape), name
    return Assembly(name, shape, dtype, tuple(pieces))


def renamed(source: Assembly, name: str) -> Assembly:
    """Return the recipe of a whole tensor under another name."""
    return cut_out(source, tuple((0, size) for size in source.shape), name)


def cut_out(source: Assembly, of: Box, name: str | None = None) -> Assembly:
    """Return the recipe of one box of a tensor, under its name or another."""
    shape = tuple(stop - start for start, stop in of)
    box = tuple((0, size) for size in shape)
    return compose(name or source.name, shape, source.dtype, [RecipePart(source, of, box)])


def rows_of(source: Assembly, start: int, stop: int, name: str | None = None) -> Assembly:
    """Return the recipe of some rows of a tensor, one behind the other."""
    rest = tuple((0, size) for size in source.shape[1:])
    return cut_out(source, ((start, stop), *rest), name)


def last_row_repeated(source: Assembly, rows: int) -> Assembly:
    """Return the recipe of `rows` rows, all of them the last one of a tensor.

    So Megatron's converter fills the rows of the vocabulary that no token has. Raises
    UnsupportedLayout for a quantised tensor.
    """
    end = source.shape[0]
    box = ((end - 1, end), *((0, size) for size in source.shape[1:]))
    pieces = []
    for piece in source.pieces:
        inner = common(piece.box, box)
        if inner is not None:
            one = piece.inside(inner)
            if one.ref.scale is not None:
                raise UnsupportedLayout(f"{source.name}: a quantised vocabulary cannot be padded")
            first, *others = one.of
            ref = replace(
                one.ref,
                shape=(rows, *one.ref.shape[1:]),
                stride=(0, *one.ref.stride[1:]),
                offset=one.ref.offset_of((first[0], *(0 for _ in others))),
            )
            pieces.append(Piece(ref, one.rank, ((0, rows), *others), ((0, rows), *inner[1:])))
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


def _moved(inner: Box, of: Box, box: Box) -> Box:
    """Return where a box inside `of` comes to lie when `of` fills `box`."""
    if len(of) == len(box):
        return tuple(
            (b[0] + i[0] - o[0], b[0] + i[1] - o[0]) for i, o, b in zip(inner, of, box, strict=True)
        )
    moves = iter([(i[0] - o[0], i[1] - o[0]) for i, o in zip(inner, of, strict=True) if _long(o)])
    return tuple(
        (b[0] + move[0], b[0] + move[1]) if move is not None else b
        for b in box
        for move in [next(moves) if _long(b) else None]
    )


def _long(bounds: tuple[int, int]) -> bool:
    return bounds[1] - bounds[0] != 1
