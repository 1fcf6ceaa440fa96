"""Find the chunks that a distributed checkpoint's tensors lie in."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembly, Piece, transposed
from ckptdiff.checkpoint import Chunk
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.checkpoint import Box, Checkpoint, TensorRef


def placed(assembly: Assembly, checkpoint: Checkpoint) -> Assembly:
    """Replace pieces of whole tensors by the chunks that they lie in, where a format has chunks.

    Raises UnsupportedLayout if chunks are missing or overlap.
    """
    if checkpoint.chunks is None:
        return assembly
    pieces = [part for piece in assembly.pieces for part in _in_chunks(piece, checkpoint.chunks)]
    padding = [part for piece in assembly.padding for part in _in_chunks(piece, checkpoint.chunks)]
    return replace(assembly, pieces=tuple(pieces), padding=tuple(padding))


def _in_chunks(piece: Piece, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> list[Piece]:
    parts = []
    filled = 0
    for chunk in _chunks_of(piece.ref, chunks):
        inside = tuple(
            (max(p[0], c[0]), min(p[1], c[1])) for p, c in zip(piece.of, chunk.box, strict=True)
        )
        if any(start >= stop for start, stop in inside):
            continue
        of = tuple((i[0] - c[0], i[1] - c[0]) for i, c in zip(inside, chunk.box, strict=True))
        box = tuple(
            (b[0] + i[0] - p[0], b[0] + i[1] - p[0])
            for i, p, b in zip(inside, piece.of, piece.box, strict=True)
        )
        parts.append(Piece(chunk.ref, piece.rank, of, box))
        filled += _volume(of)
    if filled != _volume(piece.of):
        raise UnsupportedLayout(
            f"{piece.ref.file}: {piece.ref.name}: its chunks hold {filled} of "
            f"{_volume(piece.of)} elements"
        )
    return sorted(parts, key=lambda part: part.box)


def _chunks_of(ref: TensorRef, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> tuple[Chunk, ...]:
    """Return the chunks of a whole tensor, or of the transpose of one."""
    if ref in chunks:
        return chunks[ref]
    return tuple(Chunk(transposed(chunk.ref), chunk.box[::-1]) for chunk in chunks[transposed(ref)])


def _volume(box: Box) -> int:
    return prod(stop - start for start, stop in box)
