"""What a forward pass needs beside the weights, whichever side's config it is read from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.errors import UnknownConfig, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

# Llama 3's scaling of rotary positions, but for the factor: megatron-core 0.16.1 and Meta's
# apply_scaling hard-code these numbers.
LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
Mixer = Literal["attention", "delta_net", "mamba"]
Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_new", "relu2", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `scaling` has the fields of Hugging Face's rope_parameters."""

    base: float
    dim: int  # channels of a head that are rotated, its first ones
    scaling: Mapping[str, Any] = field(default_factory=dict)
    interleaved: bool = False  # a pair is two neighbours, not a channel of each half
    regroups: bool = False  # neighbours are moved into halves, and stay there once rotated
    is_wide: bool = False  # rotated in float32, and rounded once
    is_complex: bool = False  # rotated as complex numbers, and neighbours again for attention

    @property
    def kind(self) -> str:
        return str(self.scaling.get("rope_type", "default"))


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router chooses experts for a position, and how it weights their outputs.

    Scores are the softmax of the router's logits, or their sigmoid. The experts with the highest
    scores are chosen; if there are groups, from the groups with the highest scores only.
    """

    experts: int
    chosen: int  # experts per position (top-k)
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalized: bool = True  # the weights of the chosen experts sum to one
    softmax_last: bool = False  # experts are chosen by the logits; weights are a softmax of those
    scaling: float = 1.0  # factor of the weights
    groups: int = 1  # of neighbouring experts, of equal size
    chosen_groups: int = 1  # groups per position
    ranking: int = 2  # the score of a group is the sum of so many of its highest scores
    biased: bool = False  # a bias that is stored is added to scores, for the choice only
    wide_logits: bool = False  # computed in float32, whatever the dtype
    wide_weights: bool = False  # not rounded to the dtype of the logits
    wide_sum: bool = False  # the outputs of experts are added up in float32, and rounded once


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    rope: Rope | None
    window: int | None = None  # positions that are seen, its own among them; None: all before
    routing: Routing | None = None  # None: a dense MLP
    mixer: Mixer | None = "attention"  # None: only an MLP or experts
    mlp: bool = True  # there is one, or experts


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-latent attention: queries, keys and values are expanded from short latent vectors."""

    query_rank: int | None  # elements of the latent of queries; None: they are not compressed
    rank: int  # elements of the latent of keys and values
    unrotated: int  # channels of a query head or key head; the rotated ones come after them
    rotated: int  # channels
    value: int  # channels of a value head
    epsilon: float  # of the norms of the latents


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """The heads of gated DeltaNet layers; each key head serves as many value heads."""

    key_heads: int  # of queries and of keys
    value_heads: int
    key_channels: int  # per head
    value_channels: int


@dataclass(frozen=True, slots=True)
class Mamba:
    """The heads of Mamba 2 layers."""

    heads: int
    channels: int  # per head
    groups: int  # of heads: what goes where in a state, and what is read, is of a group
    states: int  # channels of a state
    epsilon: float  # of the norm of what the states give
    least_step: float = 0.0


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a program does whatever its config says, where another program may do otherwise."""

    text: str
    steps: frozenset[str]  # by the names of the values that they give: those it can move


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only model."""

    family: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int  # per head
    layernorm_epsilon: float
    softmax_scale: float
    rms_norm: bool = True  # else LayerNorm
    zero_centered: bool = False  # norm weights are stored less one
    activation: Activation = "silu"
    gated: bool = True  # the MLP is gated
    gate_limit: float | None = None  # gate is clamped to at most so much, up to within +-so much
    up_offset: float = 0.0  # added to up, which the activated gate multiplies
    tied: bool = False  # the head is the embedding
    wide_norm: bool = False  # a norm is rounded after its weight, and weight + 1 is not rounded
    norms_in_front: bool = True  # of the input of attention and of the MLP
    norms_behind: bool = False  # of their output, before it is added to the residual stream
    parallel_residual: bool = False  # the MLP has the input of attention, not its output, added
    norms_all_heads: bool = False  # queries and keys are normalised over all heads at once
    qkv_limit: float | None = None  # queries, keys and values are clamped to so much before RoPE
    embedding_scale: float = 1.0
    learned_positions: bool = False
    qk_norm: bool = True  # whether a class of transformers normalises queries and keys
    is_causal: bool = True  # positions do not see later ones
    # What is added to the sum in attention's softmax: nothing, exp(0), or exp of a weight per head.
    softmax_type: Literal["vanilla", "off-by-one", "learnable"] = "vanilla"
    attention_cap: float | None = None  # scores become cap * tanh(scores / cap)
    logit_cap: float | None = None  # and logits likewise
    latent: Latent | None = None
    delta_net: DeltaNet | None = None
    mamba: Mamba | None = None
    expert_latent: int | None = None  # elements of what experts take and give; None: hidden_size
    output_gate: bool = False  # what attention puts out is gated
    # Rows of gate and up that take turns in experts, and in shared ones; 0: gate is above up.
    expert_turns: int = 0
    shared_turns: int = 0
    # Linear layers, by their name in a layer, that the program builds without a bias: one that is
    # stored is not added.
    without_bias: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()  # what the config does not state, and what was assumed
    fixed: tuple[Fixed, ...] = ()
    # Settings that change what the program computes and that are not computed here, in words that
    # follow "A: ". While there are any, no verdict is `arithmetic`.
    not_computed: tuple[str, ...] = ()
    # What is taken from the other side because the config cannot say it, in words that follow
    # "only arithmetic, if B is run with the same ".
    taken: tuple[str, ...] = ()

    @property
    def routing(self) -> Routing | None:
        """The routing of its layers with experts; None if it has none."""
        return next((layer.routing for layer in self.layers if layer.routing is not None), None)


def rounded_as(model: Model, other: Model) -> Model:
    """Return a model that its program computes in those widths in which the other is computed.

    What is rounded where is no setting of a model, whichever config says it. Exactly computed, both
    would be the same.
    """
    layers = model.layers
    if len(layers) == len(other.layers):
        layers = tuple(map(_layer_rounded_as, layers, other.layers))
    is_tanh = {model.activation, other.activation} <= {"gelu_new", "gelu_tanh"}
    activation = other.activation if is_tanh else model.activation
    return replace(model, layers=layers, wide_norm=other.wide_norm, activation=activation)


def _layer_rounded_as(layer: LayerSpec, other: LayerSpec) -> LayerSpec:
    if layer.rope is not None and other.rope is not None:
        wide, is_complex = other.rope.is_wide, other.rope.is_complex
        layer = replace(layer, rope=replace(layer.rope, is_wide=wide, is_complex=is_complex))
    if layer.routing is not None and other.routing is not None:
        names = ("wide_logits", "wide_weights", "wide_sum")
        widths = {name: getattr(other.routing, name) for name in names}
        layer = replace(layer, routing=replace(layer.routing, **widths))
    return layer


def hybrid_layer(letter: str, layer: LayerSpec, routing: Routing | None) -> LayerSpec:
    """Return a layer of a hybrid of Mamba and attention, by its letter in the pattern.

    "M" is Mamba, "*" attention as in `layer`, "-" an MLP, "E" experts with this routing. Raises
    UnsupportedLayout for another letter.
    """
    if letter == "M":
        return LayerSpec(None, mixer="mamba", mlp=False)
    if letter == "*":
        return replace(layer, mlp=False, routing=None)
    if letter == "-" or (letter == "E" and routing is not None):
        return LayerSpec(None, mixer=None, routing=routing if letter == "E" else None)
    raise UnsupportedLayout(f"the letter {letter!r} of a hybrid's pattern is not yet computed")


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """Return YaRN's factor of attention for a context `factor` times as long (arXiv 2309.00071)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def size_of(file: str, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a size that a file states, or the default. Raises UnknownConfig if it is none."""
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise UnknownConfig(f"{file}: {name} is {value!r}, which is no size")
    return value
