"""Split the comparison of two tensors into parts, and compare a part in a worker process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Copy, Pieces, intersection
from ckptdiff.assembly.views import matrix_shape, view_of
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CkptDiffError, UnsupportedLayout
from ckptdiff.kernels.views import Block, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembly, Piece
    from ckptdiff.kernels.stats import Stats

PART_BYTES = 32 << 20  # that one job reads of one side: cancelling waits for the job that runs
BATCH_PARTS = 64  # at most in one job, where tensors are small


@dataclass(frozen=True, slots=True)
class Padding:
    """The padding rows of one side, and the last row that is not padding."""

    last_row: View
    rows: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class DiffPart:
    """A part of one tensor's comparison: which ranges of files to compare, no data."""

    shape: tuple[int, int]  # of the whole tensor, as a matrix
    blocks: tuple[Block, ...] = ()
    copies: tuple[tuple[View, View], ...] = ()  # a piece and another rank's copy
    paddings: tuple[Padding, ...] = ()
    norms: bool = False  # measure the norms even where everything is equal
    nbytes: int = 0  # to be read, both sides

    def files(self) -> set[str]:
        """Return the files that are read."""
        pairs = [(block.a, block.b) for block in self.blocks]
        padded = [(one.last_row, *one.rows) for one in self.paddings]
        views = [*chain(*pairs, *self.copies, *padded)]
        factors = [view.scaling.files for view in views if view.scaling is not None]
        added = [view.added.files for view in views if view.added is not None]
        return {view.file for view in views}.union(*factors, *added)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker found in one part."""

    stats: Stats | None = None
    paddings: tuple[str, ...] = ()  # in words, what each padding holds
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """Which piece and which copy a pair of views in `DiffPart.copies` is."""

    side: str  # "A", "B", or "scales": the block factors of both sides
    piece: Piece
    copy: Copy


@dataclass(frozen=True, slots=True)
class DiffPlan:
    """All parts of one tensor's comparison, and what the pairs in each part's `copies` are."""

    parts: tuple[DiffPart, ...]
    replicas: tuple[tuple[Replica, ...], ...]
    padding_sides: tuple[str, ...]  # "A" or "B", for the `paddings` of the last part

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def plan_diff(a: Assembly, b: Assembly) -> DiffPlan:
    """Return the parts that compare every element of two tensors of one shape, and every copy.

    Raises UnsupportedLayout if a piece is not a matrix, or if block factors are of other blocks.
    """
    shape = (1, a.nbytes) if a.is_blob else matrix_shape(a.shape)
    parts: list[DiffPart] = []
    replicas: list[tuple[Replica, ...]] = []
    blocks: list[Block] = []
    held_bytes = 0
    for block in _split(_blocks(a, b)):
        size = _nbytes(block.a)
        if blocks and held_bytes + size > PART_BYTES:
            parts.append(_part(shape, blocks))
            replicas.append(())
            blocks, held_bytes = [], 0
        blocks.append(block)
        held_bytes += size
    parts.append(_part(shape, blocks))
    replicas.append(())
    for side, assembly in (("A", a), ("B", b)):
        for piece in assembly.pieces:
            for copy in piece.copies:
                pair = _copy_views(piece, copy, assembly.shape)
                # Small copies are compared with the last part of the tensor.
                if held_bytes + _nbytes(pair[0]) > PART_BYTES:
                    parts.append(DiffPart(shape))
                    replicas.append(())
                    held_bytes = 0
                held_bytes += _nbytes(pair[0])
                last = parts[-1]
                nbytes = last.nbytes + 2 * _nbytes(pair[0])
                parts[-1] = replace(last, copies=(*last.copies, pair), nbytes=nbytes)
                replicas[-1] = (*replicas[-1], Replica(side, piece, copy))
    for pair, replica in _scales(a, b):
        parts[-1] = replace(parts[-1], copies=(*parts[-1].copies, pair))
        replicas[-1] = (*replicas[-1], replica)
    padded = [(s, x) for s, x in (("A", a), ("B", b)) if x.padding and x.shape[0]]
    parts[-1] = replace(parts[-1], paddings=tuple(_padding(x) for _, x in padded))
    return DiffPlan(tuple(parts), tuple(replicas), tuple(side for side, _ in padded))


def _scales(a: Assembly, b: Assembly) -> Iterator[tuple[tuple[View, View], Replica]]:
    """Yield the block factors of two quantised tensors, which have to be equal as well.

    Raises UnsupportedLayout if their blocks have different sizes.
    """
    if not (a.is_scaled and b.is_scaled):
        return
    for left, right in zip(a.pieces, b.pieces, strict=True):
        one, other = view_of(left, a.shape)[1].scaling, view_of(right, b.shape)[1].scaling
        assert one is not None
        assert other is not None
        if (one.block, one.factors.shape) != (other.block, other.factors.shape):
            raise UnsupportedLayout(
                f"{a.name}: quantised in blocks of {one.block[0]}x{one.block[1]} and of "
                f"{other.block[0]}x{other.block[1]}"
            )
        assert right.ref.scale is not None
        yield (
            (one.factors, other.factors),
            Replica("scales", left, Copy(right.ref.scale.ref, right.rank)),
        )


def run_parts(parts: Sequence[DiffPart]) -> list[Outcome]:
    """Compare the parts of one job. Runs in a worker process; only there data is read."""
    return [_run(part) for part in parts]


def _run(part: DiffPart) -> Outcome:
    from ckptdiff.kernels.compare import compare_blocks
    from ckptdiff.kernels.padding import describe_padding

    try:
        stats = compare_blocks(part.shape, part.blocks, part.copies, norms=part.norms)
        padding_texts = tuple(
            describe_padding(padding.rows, padding.last_row) for padding in part.paddings
        )
    except CkptDiffError as error:
        return Outcome(error=str(error))
    except Exception as error:  # noqa: BLE001 -- an error in one tensor is its result
        return Outcome(error=f"{type(error).__name__}: {error}")
    return Outcome(stats, padding_texts)


def _blocks(a: Assembly, b: Assembly) -> Iterator[Block]:
    """Yield rectangles that lie in one piece on each side; together they are the whole tensor."""
    others = Pieces(b.pieces)
    for left in a.pieces:
        for right in others.meeting(left.box):
            box = intersection(left.box, right.box)
            if box is not None:
                at, view_a = view_of(left.inside(box), a.shape)
                _, view_b = view_of(right.inside(box), b.shape)
                yield Block(at, view_a, view_b)


def _split(blocks: Iterator[Block]) -> Iterator[Block]:
    """Split blocks by rows, and rows that are too long by columns, to at most PART_BYTES each."""
    for block in blocks:
        rows, columns = block.a.shape
        itemsize = max(ITEMSIZE[block.a.dtype], ITEMSIZE[block.b.dtype])
        across = max(1, min(columns, PART_BYTES // itemsize))
        down = max(1, min(rows, PART_BYTES // (across * itemsize)))
        if (down, across) == (rows, columns):
            yield block
            continue
        for row in range(0, rows, down):
            for column in range(0, columns, across):
                size = min(down, rows - row), min(across, columns - column)
                at = block.at[0] + row, block.at[1] + column
                yield Block(
                    at, block.a.crop((row, column), size), block.b.crop((row, column), size)
                )


def _part(shape: tuple[int, int], blocks: list[Block]) -> DiffPart:
    nbytes = sum(_nbytes(block.a) + _nbytes(block.b) for block in blocks)
    return DiffPart(shape, tuple(blocks), nbytes=nbytes)


def _copy_views(piece: Piece, copy: Copy, shape: tuple[int, ...]) -> tuple[View, View]:
    _, original = view_of(piece, shape)
    _, other = view_of(replace(piece, ref=copy.ref), shape)
    return original, other


def _padding(assembly: Assembly) -> Padding:
    """Return the vocabulary padding of a tensor that has some, and its last row."""
    last = next(p for p in assembly.pieces if p.box[0][1] == assembly.shape[0])
    end = assembly.shape[0]
    _, last_row = view_of(last.inside(((end - 1, end), *last.box[1:])), assembly.shape)
    rows = tuple(view_of(piece, assembly.shape)[1] for piece in assembly.padding)
    return Padding(last_row, rows)


def _nbytes(view: View) -> int:
    return view.shape[0] * view.shape[1] * ITEMSIZE[view.dtype]
