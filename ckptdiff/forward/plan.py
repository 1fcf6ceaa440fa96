"""What the jobs of a comparison are told: plain values, small to pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.model import Model
    from ckptdiff.results import Tap

Kind = Literal["huggingface", "megatron", "meta"]
Program = Literal["transformers", "meta", "megatron"]


@dataclass(frozen=True, slots=True)
class ForwardSide:
    """How one side is read and computed."""

    kind: Kind  # whose names and cuts the tensors have
    model: Model
    program: Program  # whose arithmetic
    ranks: int = 1  # that add up a row-parallel product
    expert_ranks: int = 1  # that add up what experts give


@dataclass(frozen=True, slots=True)
class Section:
    """A run of steps: those before the layers, one layer, or those behind."""

    part: Literal["first", "layer", "last"]
    number: int  # of the layer
    a: Ranks
    b: Ranks


@dataclass(frozen=True, slots=True)
class ForwardRun:
    """One pass through both models."""

    a: ForwardSide
    b: ForwardSide
    dtype: str  # a key of dtypes.BY_FLAG
    device: str
    vocabulary: int  # tokens that are no padding
    compares: bool  # tap by tap, from A's values


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor's bytes."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


@dataclass(frozen=True, slots=True)
class SectionDone:
    """What a section gives: the values that the next one takes, and how far the sides are apart."""

    a: dict[str, RawTensor]
    b: dict[str, RawTensor]
    taps: tuple[Tap, ...]


Streams = dict[str, dict[str, RawTensor]]  # by which roundings they carry
START = "start"  # a stream that carries none, as all do before the first step


@dataclass(slots=True)
class Energy:
    """Sums of squares over positions and features; of two sides A, B and of the difference A-B."""

    exact: float = 0.0  # of A's values without rounding
    points: dict[str, float] = field(default_factory=dict)  # of A-B, by the rounding that makes it
    predicted: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # point by point
    emulated: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # all points at once
    measured: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # in the low precision


@dataclass(frozen=True, slots=True)
class Traced:
    """What a section gives to the attribution: the values of all streams, and how large they are.

    Behind the last section there are no values.
    """

    a: Streams
    b: Streams
    energy: Energy
