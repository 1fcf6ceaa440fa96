"""Map a canonical tensor onto stored ones: on which rank it lies, in which rows, beside what."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from ckptdiff.arch.templates import split_name, template
from ckptdiff.assembly.views import matrix_shape, view_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptdiff.assembly.recipe import Assembled, Assembly, Copy, Piece
    from ckptdiff.checkpoint import Box, Rank, TensorRef

Owner = Literal["this", "other", "padding", "unknown"]


@dataclass(frozen=True, slots=True)
class OwnedRun:
    """A range of a stored tensor along the dimension in which it is split, and whose it is."""

    start: int
    stop: int
    owner: Owner
    name: str = ""  # the canonical tensor of an `other` range
    box: Box = ()  # in the canonical tensor, for `this` and `padding`

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One stored tensor that holds a part of the canonical tensor, and what else it holds."""

    ref: TensorRef
    rank: Rank
    index: tuple[int, ...]  # in the leading dimensions that only the stored tensor has
    axis: int  # the stored dimension along which the runs follow each other
    runs: tuple[OwnedRun, ...]
    copies: tuple[Copy, ...] = ()

    @property
    def size(self) -> int:
        return self.ref.shape[self.axis] if self.ref.shape else 1

    def of(self, owner: Owner) -> list[OwnedRun]:
        return [run for run in self.runs if run.owner == owner]


def stored_parts(assembly: Assembly, neighbours: Iterable[Assembly] = ()) -> list[StoredPart]:
    """Return every stored tensor that holds a part of a canonical tensor, in order of its pieces.

    `neighbours` are tensors that may lie in the same stored ones: those of the same layer.
    """
    ndim = len(assembly.shape)
    own_pieces: dict[tuple[TensorRef, tuple[int, ...]], list[tuple[Owner, Piece]]] = {}
    for owner, piece in _owned(assembly):
        index = tuple(start for start, _ in piece.of[: len(piece.of) - ndim])
        own_pieces.setdefault((piece.ref, index), []).append((owner, piece))
    other_boxes: dict[tuple[TensorRef, tuple[int, ...]], list[tuple[str, Box]]] = {
        key: [] for key in own_pieces
    }
    refs = {ref for ref, _ in own_pieces}
    for neighbour in neighbours:
        if neighbour.name == assembly.name:
            continue
        for piece in (*neighbour.pieces, *neighbour.padding):
            if piece.ref in refs:
                index = tuple(start for start, _ in piece.of[: len(piece.of) - ndim])
                if (piece.ref, index) in other_boxes:
                    other_boxes[piece.ref, index].append((neighbour.name, piece.of))
    return [
        _stored(ref, index, pieces, other_boxes[ref, index])
        for (ref, index), pieces in own_pieces.items()
    ]


def _owned(assembly: Assembly) -> Iterator[tuple[Owner, Piece]]:
    for piece in assembly.pieces:
        yield "this", piece
    for piece in assembly.padding:
        yield "padding", piece


def _stored(
    ref: TensorRef,
    index: tuple[int, ...],
    own_pieces: list[tuple[Owner, Piece]],
    other_boxes: list[tuple[str, Box]],
) -> StoredPart:
    boxes = [piece.of for _, piece in own_pieces] + [box for _, box in other_boxes]
    split_axes = [
        axis
        for axis in range(len(index), len(ref.shape))
        if any(box[axis] != (0, ref.shape[axis]) for box in boxes)
    ]
    axis = split_axes[0] if split_axes else min(len(index), max(0, len(ref.shape) - 1))
    runs = [OwnedRun(*_along(p.of, axis), owner, box=p.box) for owner, p in own_pieces]
    runs += {OwnedRun(*_along(box, axis), "other", name) for name, box in other_boxes}
    runs.sort(key=lambda run: run.start)
    filled: list[OwnedRun] = []
    at = 0
    for run in runs:
        if run.start > at:
            filled.append(OwnedRun(at, run.start, "unknown"))
        filled.append(run)
        at = max(at, run.stop)
    size = ref.shape[axis] if ref.shape else 1
    if at < size:
        filled.append(OwnedRun(at, size, "unknown"))
    first = own_pieces[0][1]
    return StoredPart(ref, first.rank, index, axis, tuple(filled), first.copies)


def _along(box: Box, axis: int) -> tuple[int, int]:
    return box[axis] if box else (0, 1)


def letters(this: str, others: Iterable[str]) -> dict[str, str]:
    """Return one letter for each name: upper case for `this`, lower case for the others.

    It comes from the first dotted part in which the names differ: q_proj is Q, k_proj beside it k.
    """
    names = [this, *dict.fromkeys(name for name in others if name != this)]
    parts = [name.split(".") for name in names]
    differing = 0
    while len(names) > 1 and all(
        differing < len(part) and part[differing] == parts[0][differing] for part in parts
    ):
        differing += 1
    words = [
        _word(part, differing) if len(names) > 1 else _word(part, max(0, len(part) - 2))
        for part in parts
    ]
    capital = next((c for c in words[0] if c.isascii() and c.isalpha()), "x").upper()
    found = {this: capital}
    used = {capital.lower()}
    for name, word in zip(names[1:], words[1:], strict=True):
        candidates = [c for c in word.lower() if c.isascii() and c.isalnum()]
        letter = next((c for c in candidates if c not in used), "-")
        found[name] = letter
        used.add(letter)
    return found


def _word(parts: list[str], at: int) -> str:
    return parts[at] if at < len(parts) else parts[-1]


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The rows (axis 0) or columns (axis 1) of a canonical matrix where ranks or heads begin."""

    word: Literal["rank", "file", "head"]
    axis: int
    starts: tuple[int, ...]  # without the first, 0


def boundaries(assembled: Assembled, assembly: Assembly) -> list[Boundaries]:
    """Return where the next rank (of one rank: the next file) and the next head begin.

    Both in rows and in columns of the canonical matrix; 0 is left out.
    """
    found = []
    placed = [(view_of(piece, assembly.shape)[0], piece) for piece in assembly.pieces]
    ranks = len({piece.rank for _, piece in placed}) > 1
    for axis in (0, 1):
        holders: dict[int, set[object]] = {}
        for at, piece in placed:
            holder_of_piece = piece.rank if ranks else piece.ref.file
            holders.setdefault(at[axis], set()).add(holder_of_piece)
        starts = sorted(holders)
        starts_of_new = tuple(
            start for before, start in pairwise(starts) if holders[start] != holders[before]
        )
        if starts_of_new:
            found.append(Boundaries("rank" if ranks else "file", axis, starts_of_new))
    heads = _heads(assembled, assembly)
    return found if heads is None else [*found, heads]


def _heads(assembled: Assembled, assembly: Assembly) -> Boundaries | None:
    """Return where attention heads begin: rows of q, k and v, columns of the output projection.

    The rule with three Hugging Face names is that of q, k and v. The other split tensor of their
    module is the output projection.
    """
    architecture, config = assembled.architecture, assembled.config
    if architecture is None or config is None:
        return None
    name = split_name(assembly.name)[0]
    attention = {
        template(hf).rpartition(".")[0].rpartition(".")[0]
        for mapping in architecture.mappings
        if len(mapping.hf) == 3
        for hf in mapping.hf
    }
    rows, columns = matrix_shape(assembly.shape)
    for mapping in architecture.mappings:
        if name not in map(template, mapping.hf):
            continue
        inside = name.rpartition(".")[0].rpartition(".")[0] in attention
        axis = 0 if len(mapping.hf) == 3 else 1
        if not inside or mapping.dim is None or (axis == 1 and mapping.dim != 1):
            return None
        if len(assembly.shape) == 1:
            axis = 1  # a bias is one row
        size = (rows, columns)[axis]
        if size % config.kv_channels or size == config.kv_channels:
            return None
        return Boundaries("head", axis, tuple(range(config.kv_channels, size, config.kv_channels)))
    return None
