"""Replace whole tensors, or views of them, by the chunks that hold their bytes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembly, Copy, Piece
from ckptdiff.checkpoint import Chunk
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.checkpoint import Box, Checkpoint, TensorRef


class ViewsOfWholes:
    """Finds the chunks of any view of a whole tensor: a part of one that is fused, say.

    Whole tensors lie end to end in addresses of their own (`formats.wholes.addressed`).
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._chunks = checkpoint.chunks
        self._wholes = sorted(checkpoint.chunks or (), key=lambda ref: ref.offset)
        self._offsets = [ref.offset for ref in self._wholes]

    def resolved(self, assembly: Assembly) -> Assembly:
        """Return the recipe of whole tensors, or views of them, as one of chunks.

        In a format without chunks the recipe stays as it is. Raises UnsupportedLayout if chunks are
        missing or overlap, or if it is not made of plain views.
        """
        if self._chunks is None:
            return assembly
        pieces = (*assembly.pieces, *assembly.padding)
        refs = {ref for p in pieces for ref in (p.ref, *(copy.ref for copy in p.copies))}
        return _resolved(assembly, {ref: self._of(ref) for ref in refs})

    def _of(self, ref: TensorRef) -> tuple[Chunk, ...]:
        """Return the chunks of a view, each cut and turned as the view is."""
        assert self._chunks is not None
        if ref in self._chunks:
            return self._chunks[ref]
        if 0 in ref.shape:
            return ()
        if ref.scale is not None:
            raise UnsupportedLayout(
                f"{ref.file}: {ref.name} is quantised in blocks and lies in parts, which are not "
                "put together; save it whole with the program that wrote it"
            )
        whole = self._wholes[bisect_right(self._offsets, ref.offset) - 1]
        first = []
        element = (ref.offset - whole.offset) // ITEMSIZE[whole.dtype]
        for step in whole.stride:
            index, element = divmod(element, step)
            first.append(index)
        seen = _ChunksInView(
            ref, first, [_runs_along(ref, dim, whole) for dim in range(len(ref.shape))]
        )
        found = (seen.of(chunk) for chunk in self._chunks[whole])
        return tuple(chunk for chunk in found if chunk is not None)


def _runs_along(view: TensorRef, dim: int, whole: TensorRef) -> tuple[int, int] | None:
    """Return along which dimension of the whole tensor one of a view runs, and in which steps.

    None for a dimension of size 1. Raises UnsupportedLayout if it runs along none.
    """
    size, step = view.shape[dim], view.stride[dim]
    if size == 1:
        return None
    along = next(d for d, inner in enumerate(whole.stride) if inner <= step)
    steps, rest = divmod(step, whole.stride[along])
    if rest or (size - 1) * steps >= whole.shape[along]:
        raise UnsupportedLayout(
            f"{whole.file}: {whole.name} lies in parts, and they cannot be read as {view.shape}"
        )
    return along, steps


class _ChunksInView:
    """What a view of a whole tensor shows of its chunks."""

    def __init__(
        self, view: TensorRef, first: list[int], runs: list[tuple[int, int] | None]
    ) -> None:
        """Take a view, the index of its first element in the whole tensor, and how it runs."""
        self._view = view
        self._first = first
        self._runs = runs

    def of(self, chunk: Chunk) -> Chunk | None:
        """Return a chunk of the whole tensor as one of the view; None if the view has none of it.

        Its ref has the dimensions of the view.
        """
        at = [index - start for index, (start, _) in zip(self._first, chunk.box, strict=True)]
        box = []
        for size, run in zip(self._view.shape, self._runs, strict=True):
            if run is None:
                box.append((0, 1))
                continue
            along, steps = run
            start, stop = chunk.box[along]
            begin = max(0, -(-(start - self._first[along]) // steps))
            end = min(size, -(-(stop - self._first[along]) // steps))
            if begin >= end:
                return None
            box.append((begin, end))
            at[along] += begin * steps
        if any(not 0 <= at[d] < stop - start for d, (start, stop) in enumerate(chunk.box)):
            return None
        return Chunk(
            self._cut(chunk.ref, at, box),
            tuple(box),
            tuple(self._cut(copy, at, box) for copy in chunk.copies),
        )

    def _cut(self, ref: TensorRef, at: list[int], box: list[tuple[int, int]]) -> TensorRef:
        """Return the part of a chunk from index `at` on, of the size of a box of the view."""
        return replace(
            ref,
            shape=tuple(stop - start for start, stop in box),
            offset=ref.offset_of(tuple(at)),
            stride=tuple(1 if run is None else run[1] * ref.stride[run[0]] for run in self._runs),
        )


def _resolved(assembly: Assembly, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> Assembly:
    pieces = [part for piece in assembly.pieces for part in _in_chunks(piece, chunks)]
    padding = [part for piece in assembly.padding for part in _in_chunks(piece, chunks)]
    return replace(assembly, pieces=tuple(pieces), padding=tuple(padding))


def _in_chunks(piece: Piece, chunks: Mapping[TensorRef, tuple[Chunk, ...]]) -> list[Piece]:
    """Return pieces of chunks that together fill what a piece of a whole tensor fills.

    Copies of a whole tensor have to lie in the same chunks: each becomes copies of its pieces.
    """
    own = chunks[piece.ref]
    others = [(copy, _by_box(chunks[copy.ref])) for copy in piece.copies]
    for copy, held in others:
        if held.keys() != _by_box(own).keys():
            raise UnsupportedLayout(
                f"{copy.ref.file}: {copy.ref.name} lies in other parts than {piece.ref.name}, "
                "whose copy it is"
            )
    parts = []
    filled = 0
    for chunk in own:
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
        copies = [Copy(ref, piece.rank) for ref in chunk.copies]
        for copy, held in others:
            of_copy = held[chunk.box]
            copies += [Copy(ref, copy.rank) for ref in (of_copy.ref, *of_copy.copies)]
        parts.append(Piece(chunk.ref, piece.rank, of, box, tuple(copies)))
        filled += _numel(of)
    if filled != _numel(piece.of):
        raise UnsupportedLayout(
            f"{piece.ref.file}: {piece.ref.name}: its chunks hold {filled} of "
            f"{_numel(piece.of)} elements"
        )
    return sorted(parts, key=lambda part: part.box)


def _by_box(chunks: tuple[Chunk, ...]) -> dict[Box, Chunk]:
    return {chunk.box: chunk for chunk in chunks}


def _numel(box: Box) -> int:
    return prod(stop - start for start, stop in box)
