"""Replace whole tensors of a distributed checkpoint by the chunks that hold their bytes."""

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


def resolve_chunks(assembly: Assembly, checkpoint: Checkpoint) -> Assembly:
    """Return the recipe with each piece replaced by the chunks that hold it.

    In a format without chunks the recipe stays as it is. Raises UnsupportedLayout if chunks are
    missing or overlap.
    """
    if checkpoint.chunks is None:
        return assembly
    pieces = [part for piece in assembly.pieces for part in _in_chunks(piece, checkpoint.chunks)]
    padding = [part for piece in assembly.padding for part in _in_chunks(piece, checkpoint.chunks)]
    return replace(assembly, pieces=tuple(pieces), padding=tuple(padding))


def _in_chunks(piece: Piece, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> list[Piece]:
    """Return pieces of chunks that together fill what a piece of a whole tensor fills."""
    parts = []
    filled = 0
    for chunk in _chunks_of(piece.ref, chunks):
        inside = tuple(
            (max(of_piece[0], of_chunk[0]), min(of_piece[1], of_chunk[1]))
            for of_piece, of_chunk in zip(piece.of, chunk.box, strict=True)
        )
        if any(start >= stop for start, stop in inside):
            continue
        of = tuple(
            (common[0] - of_chunk[0], common[1] - of_chunk[0])
            for common, of_chunk in zip(inside, chunk.box, strict=True)
        )
        box = tuple(
            (target[0] + common[0] - of_piece[0], target[0] + common[1] - of_piece[0])
            for common, of_piece, target in zip(inside, piece.of, piece.box, strict=True)
        )
        parts.append(Piece(chunk.ref, piece.rank, of, box))
        filled += _numel(of)
    if filled != _numel(piece.of):
        raise UnsupportedLayout(
            f"{piece.ref.file}: {piece.ref.name}: its chunks hold {filled} of "
            f"{_numel(piece.of)} elements"
        )
    return sorted(parts, key=lambda part: part.box)


def _chunks_of(ref: TensorRef, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> tuple[Chunk, ...]:
    """Return the chunks of a whole tensor, transposed if `ref` is the transpose of one."""
    if ref in chunks:
        return chunks[ref]
    return tuple(Chunk(transposed(chunk.ref), chunk.box[::-1]) for chunk in chunks[transposed(ref)])


def _numel(box: Box) -> int:
    return prod(stop - start for start, stop in box)
