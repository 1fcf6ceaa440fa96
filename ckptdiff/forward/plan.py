"""What the jobs of a comparison are given and return: plain values, small to pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.model import Model

LOGITS_POSITIONS = 128  # of a longer prompt, from first to last, at which logits are compared
MOST_LOGITS = 1 << 23  # elements of a side's logits that are computed at a time
SOME_LOGITS = {"cpu": 1 << 20}  # the same where there are many positions: a CPU's cache is small
# The name, before the layer's number, under which a pass that does not compare keeps which experts
# it chose: for each side (positions, experts), True where an expert is chosen.
CHOSEN = "chosen"
MOST_SCORES = 1 << 26  # of attention, over all heads, that are computed at a time
# Positions that are computed at a time, and bytes that the inside of an MLP may take on one side.
# On a CPU little leaves its cache; a GPU wants large products.
CHUNK_TOKENS, CHUNK_BYTES = {"cpu": 512}, {"cpu": 1 << 26}
LARGE_CHUNK, LARGE_BYTES = 8192, 1 << 28
_INSIDE = 4  # values as wide as the MLP: gate, up, their product, and one of the other side
Kind = Literal["huggingface", "megatron", "meta"]
Program = Literal["transformers", "meta", "megatron"]


@dataclass(frozen=True, slots=True)
class ForwardSide:
    """How one side is read and computed."""

    kind: Kind  # whose names the tensors have, and how they are split over ranks
    model: Model
    program: Program  # whose arithmetic is used
    ranks: int = 1  # tensor parallel ranks, whose row-parallel products are added up
    expert_ranks: int = 1  # expert parallel ranks, whose experts' outputs are added up
    expert_slices: int = 1  # expert tensor ranks, each with a slice of every expert


@dataclass(frozen=True, slots=True)
class Section:
    """Steps that are computed in one job: those before the layers, one layer, or those after."""

    part: Literal["first", "layer", "last"]
    number: int  # of the layer, from 0
    a: Ranks
    b: Ranks


@dataclass(frozen=True, slots=True)
class ForwardRun:
    """One pass through both models."""

    a: ForwardSide
    b: ForwardSide
    dtype: str  # a key of dtypes.BY_FLAG
    device: str
    vocabulary: int  # tokens, padding not counted
    compares: bool  # B is compared with A, tap by tap, from A's values
    b_alone: bool  # B is computed on its own values as well; else A's stand for them
    ids: tuple[int, ...]  # the prompt
    comparison: str  # under which a worker keeps the values between jobs


START = "start"  # the stream that carries no rounding; before the first step, all are equal to it


@dataclass(slots=True)
class Energy:
    """Sums of squares over positions and features. Lists are of A's error, B's error and A-B."""

    stopped: str = ""  # why the section was not computed to its end, in words
    exact: float = 0.0  # of A's values without any rounding
    points: dict[str, float] = field(default_factory=dict)  # of A-B, by rounding point
    # The sum over rounding points, each alone.
    predicted: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    # All rounding points at once, in float64.
    emulated: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    # Computed in the low precision itself.
    measured: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


@dataclass(frozen=True, slots=True)
class PackedRun:
    """Passes of many sequences through both models: A, A's weights as B computes them, and B."""

    a: ForwardSide
    b: ForwardSide
    dtype: str  # a key of dtypes.BY_FLAG
    device: str
    vocabulary: int  # tokens, padding not counted
    comparison: str  # under which a worker keeps the values between jobs


def most_tokens(device: str) -> int:
    """Return how many positions of short sequences are computed at a time, on a type of device."""
    return CHUNK_TOKENS.get(device, LARGE_CHUNK)


def chunk_tokens(width: int, itemsize: int, device: str) -> int:
    """Return the same in a layer whose MLP has so many features, of so many bytes each."""
    fitting = CHUNK_BYTES.get(device, LARGE_BYTES) // max(1, _INSIDE * width * itemsize)
    return max(1, min(most_tokens(device), fitting))


def most_logits(device: str) -> int:
    """Return how many logits of a batch's answers are computed at a time, on a type of device."""
    return SOME_LOGITS.get(device, MOST_LOGITS)


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """A sequence of tokens, and where logits are wanted in it."""

    ids: bytes  # int32 of this machine
    # For each wanted span of logits: its first position, and the tokens (int32) that follow those
    # positions, whose log-likelihoods are added up.
    spans: tuple[tuple[int, bytes], ...]
