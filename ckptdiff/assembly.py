"""What assembling yields: the recipe of each whole canonical tensor, and one whole side of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.tensors import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.arch.base import Architecture
    from ckptdiff.config import ModelConfig
    from ckptdiff.tensors import Box, Checkpoint, Entry, Rank, TensorRef


@dataclass(frozen=True, slots=True)
class Copy:
    """Another rank's copy of a piece. Copies must be equal, byte for byte."""

    ref: TensorRef
    rank: Rank


@dataclass(frozen=True, slots=True)
class Piece:
    """Box `of` of a stored tensor fills box `box` of the canonical one."""

    ref: TensorRef
    rank: Rank
    of: Box
    box: Box
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True)
class Assembly:
    """The recipe of one whole canonical tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]  # together they fill the tensor, each element once
    padding: tuple[Piece, ...] = ()  # vocabulary padding; its boxes go on behind the last row
    note: str | None = None  # how it was found, where no rule says it

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def is_scaled(self) -> bool:
        """Whether its elements are codes that block factors make numbers of."""
        return any(piece.ref.scale is not None for piece in self.pieces)

    @property
    def padding_rows(self) -> int:
        return sum(stop - start for (start, stop), *_ in (piece.box for piece in self.padding))


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised weight whose numbers are not computed."""

    parts: tuple[str, ...]  # the stored tensors that make it up
    why: str


@dataclass(frozen=True, slots=True)
class Assembled:
    """One side: a checkpoint and its canonical tensors, in model order."""

    checkpoint: Checkpoint
    architecture: Architecture | None  # None: no rule was used
    config: ModelConfig | None
    tensors: Mapping[str, Assembly]
    unmapped: tuple[str, ...]  # native names that no rule knows
    errors: Mapping[str, str]  # canonical name to what is wrong with its layout
    derived: tuple[Entry, ...] = ()  # buffers that follow from the config
    # Weights that are stored packed, by their plain name; parts, and why they are not computed.
    packed: Mapping[str, Packed] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # how it was assembled, where that is worth saying

    @property
    def nbytes(self) -> int:
        """Bytes of the canonical tensors, copies and padding not counted."""
        return sum(t.nbytes for t in self.tensors.values())


def whole_box(ref: TensorRef) -> Box:
    """Return the box that is all of a stored tensor."""
    return _box_of(ref.shape)


@lru_cache(maxsize=1000)
def _box_of(shape: tuple[int, ...]) -> Box:
    return tuple((0, size) for size in shape)


def transposed(ref: TensorRef) -> TensorRef:
    return replace(ref, shape=ref.shape[::-1], stride=ref.stride[::-1])


def alike(one: TensorRef, other: TensorRef) -> bool:
    """Return whether one can be a copy of the other."""
    return (one.shape, one.dtype) == (other.shape, other.dtype)
