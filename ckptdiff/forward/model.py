"""What a forward pass has to know beside the weights, whichever side's words it was told in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.errors import UnknownConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

# How Llama 3 stretches its positions, but for the factor: megatron-core 0.16.1 and Meta's
# apply_scaling know no other numbers.
LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_new", "relu2"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `scaling` has the words of Hugging Face's rope_parameters."""

    base: float
    dim: int  # of a head's elements, how many are rotated
    scaling: Mapping[str, Any] = field(default_factory=dict)
    interleaved: bool = False  # pairs are neighbours, not an element of each half
    regroups: bool = False  # and what is rotated is left in halves
    is_wide: bool = False  # rotated in float32, and rounded once

    @property
    def kind(self) -> str:
        return str(self.scaling.get("rope_type", "default"))


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router sends a position to some of a layer's experts, and weights what they give.

    Scores are a softmax of the router's logits, or their sigmoid; the experts with the best scores
    are chosen, from the best groups only where there are groups.
    """

    experts: int
    chosen: int  # of them, for each position
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalized: bool = True  # the weights of the chosen sum to one
    scaling: float = 1.0  # of the weights
    groups: int = 1  # of neighbouring experts
    chosen_groups: int = 1
    ranking: int = 2  # a group is worth the sum of so many of its best scores
    wide_logits: bool = False  # computed in float32, whatever the dtype
    wide_weights: bool = False  # not rounded to the dtype of the logits


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rope: Rope | None
    window: int | None = None  # positions that are seen, the own one among them; None: all before
    routing: Routing | None = None  # None: a dense MLP


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-latent attention: queries, keys and values are expanded from a few numbers."""

    query_rank: int | None  # numbers that queries are expanded from; None: they are not
    rank: int  # numbers that keys and values are expanded from
    unrotated: int  # of a query's and a key's elements; the rotated ones come behind
    rotated: int
    value: int  # elements of a value
    epsilon: float  # of the norms of what is compressed


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only model."""

    family: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int  # elements of a head
    layernorm_epsilon: float
    softmax_scale: float
    rms_norm: bool = True  # else LayerNorm
    zero_centered: bool = False  # norm weights are stored less one
    activation: Activation = "silu"
    gated: bool = True
    tied: bool = False
    wide_norm: bool = False  # a norm is rounded behind its weight, and its weight + 1 not at all
    norms_in_front: bool = True  # of what a layer's halves compute
    norms_behind: bool = False  # of what they give, before it is added
    norms_all_heads: bool = False  # queries and keys are normalised over all heads at once
    embedding_scale: float = 1.0
    learned_positions: bool = False
    attention_cap: float | None = None  # c * tanh(scores / c)
    logit_cap: float | None = None
    latent: Latent | None = None
    notes: tuple[str, ...] = ()  # what the config does not say, and what was taken for it


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """Return by how much YaRN sharpens attention that sees `factor` times as far."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def size_of(file: str, told: Mapping[str, Any], name: str, other: int | None = None) -> int:
    """Return a size that a file tells, or else the other one. Raises UnknownConfig."""
    value = told.get(name, other)
    if type(value) is not int or value < 1:
        raise UnknownConfig(f"{file}: {name} is {value!r}, which is no size")
    return value
