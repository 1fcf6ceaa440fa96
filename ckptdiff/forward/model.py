"""What a forward pass has to know beside the weights, whichever side's words it was told in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `scaling` has the words of Hugging Face's rope_parameters."""

    base: float
    dim: int  # of a head's elements, how many are rotated
    scaling: Mapping[str, Any] = field(default_factory=dict)
    interleaved: bool = False  # pairs are neighbours, not an element of each half

    @property
    def kind(self) -> str:
        return str(self.scaling.get("rope_type", "default"))


@dataclass(frozen=True, slots=True)
class Layer:
    """What may differ from layer to layer."""

    rope: Rope | None
    window: int | None = None  # positions that are seen, the own one among them; None: all before


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only model."""

    family: str
    layers: tuple[Layer, ...]
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
    notes: tuple[str, ...] = ()  # what the config does not say, and what was taken for it
