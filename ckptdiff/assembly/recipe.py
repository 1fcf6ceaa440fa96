"""Recipes: which pieces of stored tensors make up each canonical tensor of a checkpoint."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Literal

from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.adapters import Adapter
    from ckptdiff.assembly.merging import Merging
    from ckptdiff.assembly.unwrapping import Wrapping
    from ckptdiff.checkpoint import Box, Checkpoint, Entry, Rank, TensorRef
    from ckptdiff.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Copy:
    """Another rank's copy of a piece: it has to be equal, byte for byte."""

    ref: TensorRef
    rank: Rank


@dataclass(frozen=True, slots=True)
class Piece:
    """Box `of` of a stored tensor fills box `box` of the canonical tensor.

    `of` may have leading dimensions of size 1 that `box` lacks: layers stacked in one tensor.
    """

    ref: TensorRef
    rank: Rank
    of: Box
    box: Box
    copies: tuple[Copy, ...] = ()
    part_of: str = ""  # the canonical tensor that it comes from, if it fills another one

    def inside(self, box: Box) -> Piece:
        """Return the part of this piece that fills `box`, which lies inside its own."""
        if box == self.box:
            return self
        extra = len(self.of) - len(box)  # leading dimensions that only the stored tensor has
        of = tuple(
            (o[0] + new[0] - old[0], o[0] + new[1] - old[0])
            for o, old, new in zip(self.of[extra:], self.box, box, strict=True)
        )
        return replace(self, of=(*self.of[:extra], *of), box=box)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The recipe of one canonical tensor: the stored pieces that fill it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]  # together they fill the tensor, each element once
    padding: tuple[Piece, ...] = ()  # of the vocabulary; its boxes continue below the last row
    note: str | None = None  # how it was found, where no rule was used
    by_content: bool = False  # found by equal rows alone: its name may mean something else

    @property
    def nbytes(self) -> int:
        if self.dtype not in ITEMSIZE:
            return sum(piece.ref.nbytes for piece in self.pieces)
        return prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def stored_nbytes(self) -> int:
        """Its bytes before codes of half a byte are multiplied out."""
        scales = [piece.ref.scale for piece in self.pieces]
        is_halves = any(scale is not None and scale.in_halves for scale in scales)
        return prod(self.shape) // 2 if is_halves else self.nbytes

    @property
    def is_blob(self) -> bool:
        """Whether its elements have no offsets of their own, so that it is one piece of bytes."""
        return self.dtype not in ITEMSIZE

    @property
    def is_scaled(self) -> bool:
        """Whether its elements are quantised codes, to be multiplied by block factors."""
        return any(piece.ref.scale is not None for piece in self.pieces)

    @property
    def number_dtype(self) -> str:
        """The dtype of its numbers: quantised codes are multiplied out in float32."""
        return "F32" if self.is_scaled else self.dtype

    @property
    def is_added_to(self) -> bool:
        """Whether an adapter is added to its numbers while they are read."""
        return any(piece.ref.added is not None for piece in self.pieces)

    def without_copies(self) -> Assembly:
        """Return the recipe with only the first of each piece, and without padding."""
        pieces = tuple(replace(piece, copies=()) for piece in self.pieces)
        return replace(self, pieces=pieces, padding=())

    @property
    def padding_rows(self) -> int:
        return sum(stop - start for (start, stop), *_ in (piece.box for piece in self.padding))


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight that is packed: its codes and factors are tensors of their own."""

    plain_name: str  # that it would have in its files, were it not packed; fused ones share it
    stored: tuple[str, ...]  # the names of its parts in its files
    parts: tuple[str, ...]  # the names of the same parts in `tensors`
    scheme: str  # such as mxfp4
    form: str  # what shares a factor, in words
    dtype: str  # of its codes as they are stored
    shape: tuple[int, ...] | None  # of the plain weight; None where headers do not state it
    problem: str | None = None  # why no loader can read it
    numbers: TensorRef | None = None  # its codes with their factors; None: they are not decoded

    @property
    def text(self) -> str:
        return f"{self.scheme} ({self.form})"


@dataclass(frozen=True, slots=True)
class LayoutError:
    """Why a canonical tensor cannot be assembled."""

    text: str
    # `packed`: it can be read, but its codes were not multiplied out.
    kind: Literal["layout", "missing-shard", "packed"] = "layout"


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor of another shape than the config promises."""

    name: str
    shape: tuple[int, ...]
    promised: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Where a checkpoint is not what its config promises. False if it is."""

    lacking: tuple[str, ...] = ()  # canonical names that are in no file, in model order
    beyond: tuple[str, ...] = ()  # names of layers and experts that the config does not count
    misfits: tuple[Misfit, ...] = ()
    layers: int = 0  # that the config counts
    layers_held: int = 0  # of which a tensor is there
    absent_layers: tuple[int, ...] = ()  # of which none is there; the first, of very many
    extra_layers: tuple[int, ...] = ()  # behind those that the config counts
    unknown: tuple[str, ...] = ()  # stored names of no rule, where names are lacking

    def __bool__(self) -> bool:
        return bool(self.lacking or self.beyond or self.misfits or self.absent_layers)


@dataclass(frozen=True, slots=True)
class Assembled:
    """One side of a comparison: a checkpoint and its canonical tensors, in model order."""

    checkpoint: Checkpoint
    architecture: Architecture | None  # None: no rule was used
    config: ModelConfig | None
    tensors: Mapping[str, Assembly]
    unmapped: tuple[str, ...]  # native names that no rule knows
    errors: Mapping[str, LayoutError]  # by canonical name
    derived: tuple[Entry, ...] = ()  # buffers that follow from the config
    # Weights that are not multiplied out, by the name that the plain weight would have.
    packed: Mapping[str, PackedWeight] = field(default_factory=dict)
    # Weights that are: `tensors` has their numbers, with the factors in place.
    multiplied_out: Mapping[str, PackedWeight] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for the user: how it was assembled
    # The names in `checkpoint` are without what wrappers add; its refs have them as stored.
    wrapping: Wrapping | None = None
    adapter: Adapter | None = None  # its tensors are in `tensors` too
    merging: Merging | None = None  # an adapter that is added to `tensors` while they are read
    shortfall: Shortfall = Shortfall()

    @property
    def family(self) -> str | None:
        """The family whose rules were used; None if there are none for it."""
        known = self.architecture
        return known.name if known is not None and not known.by_words else None

    @property
    def nbytes(self) -> int:
        """Bytes of the canonical tensors, copies and padding not counted."""
        return sum(t.stored_nbytes for t in self.tensors.values())


def whole_box(ref: TensorRef) -> Box:
    """Return the box that is all of a stored tensor."""
    return _box_of(ref.shape)


@lru_cache(maxsize=1000)
def _box_of(shape: tuple[int, ...]) -> Box:
    return tuple((0, size) for size in shape)


def transposed(ref: TensorRef) -> TensorRef:
    """Return a view of a stored tensor with its dimensions in reverse order."""
    scale = ref.scale
    if scale is not None:
        scale = replace(scale, ref=transposed(scale.ref), block=scale.block[::-1])
    return replace(ref, shape=ref.shape[::-1], stride=ref.stride[::-1], scale=scale)


def can_be_copies(one: TensorRef, other: TensorRef) -> bool:
    """Return whether two stored tensors agree in shape and dtype, as copies do."""
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def intersection(one: Box, other: Box) -> Box | None:
    """Return the box that lies in both boxes, or None if there is none."""
    box = tuple(
        (max(first[0], second[0]), min(first[1], second[1]))
        for first, second in zip(one, other, strict=True)
    )
    return box if all(start < stop for start, stop in box) else None


class Pieces:
    """The pieces of one tensor, with an index to find those that meet a box."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.along = split_dim(pieces)
        self._starts = (
            [piece.box[self.along][0] for piece in pieces] if self.along is not None else []
        )
        self._ordered = self.along is not None and self._starts == sorted(self._starts)

    def meeting(self, box: Box) -> Sequence[Piece]:
        """Return the pieces that can meet a box: all, unless sorted along one dimension."""
        if not self._ordered or self.along is None:
            return self.pieces
        box_start, box_stop = box[self.along]
        start = max(0, bisect_right(self._starts, box_start) - 1)
        return self.pieces[start : bisect_right(self._starts, max(box_start, box_stop - 1))]


def split_dim(pieces: Sequence[Piece]) -> int | None:
    """Return the one dimension along which a tensor is split into its pieces, or None."""
    first = pieces[0].box if pieces else ()
    dims = {d for piece in pieces for d, bounds in enumerate(piece.box) if bounds != first[d]}
    return dims.pop() if len(dims) == 1 else None
