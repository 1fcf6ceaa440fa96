"""Read what the families of config.json share: sizes, rotary positions, windows, experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward import biases
from ckptdiff.forward.model import Activation, LayerSpec, Model, Rope, Routing, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "relu2",
}

# Classes whose plain rotary positions leave a part of a head as it is; the others rotate all of it.
_PARTLY_ROTATED = (
    *("nemotron", "phi3", "glm4_moe", "gpt_neox"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)

# Classes that read no window, and those that have it in all layers, whatever `layer_types` lists.
# A mistral with such a list is not among them: transformers' AutoConfig takes it for a ministral.
_WITHOUT_WINDOW = (
    *("llama", "seed_oss", "gemma", "gpt2", "gpt_neox", "nemotron", "olmo2", "olmoe"),
    *("deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "nemotron_h"),
)
_ONE_WINDOW = ("mixtral", "phi3", "qwen3_moe")

# Classes without norms of queries and keys.
_WITHOUT_QK_NORM = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "gemma", "gemma2", "phi3"),
    *("nemotron", "nemotron_h", "gpt2", "gpt_neox", "gpt_oss", "seed_oss", "smollm3"),
)

# The fields that a kind of rotary scaling requires.
_ROPE_FIELDS = {
    "linear": ("factor",),
    "dynamic": ("factor", "max_position_embeddings"),
    "yarn": ("factor", "max_position_embeddings"),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "longrope": (
        "short_factor", "long_factor", "original_max_position_embeddings",
        "max_position_embeddings",
    ),
}  # fmt: skip

_WITH_ORIGINAL_LENGTH = ("llama3", "yarn", "longrope")

size = partial(size_of, "config.json")


def llama(config: Config, **defaults: Any) -> Model:
    """Return a model whose config has Llama's fields; `defaults` are for missing ones."""
    is_causal = bool(config.get("is_causal", True))  # null is false
    given = {name: value for name, value in config.items() if value is not None}
    config = {**defaults, **given}
    heads = size(config, "num_attention_heads")
    hidden = size(config, "hidden_size")
    channels = int(config.get("head_dim") or hidden // heads)
    rope = rope_of(config, channels)
    return Model(
        family=str(config["model_type"]),
        layers=tuple(
            LayerSpec(rope, window_of(config, number))
            for number in range(size(config, "num_hidden_layers"))
        ),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        kv_channels=channels,
        layernorm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        softmax_scale=channels**-0.5,
        activation=activation_of(config.get("hidden_act", "silu")),
        tied=bool(config.get("tie_word_embeddings", False)),
        qk_norm=config["model_type"] not in _WITHOUT_QK_NORM,
        is_causal=is_causal,
        without_bias=biases.absent_in_transformers(config),
    )


def expert_count(config: Config) -> int:
    """Return how many experts there are, by the field of transformers 4 or 5."""
    names = "num_local_experts", "num_experts", "n_routed_experts"
    return size(config, next((name for name in names if name in config), names[0]))


def activation_of(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UnsupportedLayout(f"config.json: the activation {name!r} is not yet computed")
    return ACTIVATIONS[name]


def refuse(config: Config, *names: str) -> None:
    """Raise UnsupportedLayout if one of these settings is on: it changes what is computed."""
    for name in names:
        if config.get(name):
            raise UnsupportedLayout(f"config.json: {name} is on, which is not yet computed")


def rope_of(config: Config, channels: int) -> Rope:
    """Return the rotary positions, from the fields of transformers 4 or 5, as 5 reads them."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise UnknownConfig(f"config.json: rope_scaling is {given!r}; an object is needed")
    scaling = {name: value for name, value in given.items() if value is not None}
    if "type" in scaling:
        scaling.setdefault("rope_type", scaling.pop("type"))
    scaling.setdefault("max_position_embeddings", config.get("max_position_embeddings"))
    kind = str(scaling.get("rope_type", "default"))
    original = config.get("original_max_position_embeddings")
    if original is not None and kind in _WITH_ORIGINAL_LENGTH:
        scaling["original_max_position_embeddings"] = original  # beside the object, it counts more
    for name in _ROPE_FIELDS.get(kind, ()):
        if scaling.get(name) is None:
            raise UnknownConfig(f"config.json: rope_scaling of type {kind} says no {name}")
    base: Any = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    fraction: Any = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if config.get("model_type") not in _PARTLY_ROTATED:
        is_whole = int(channels * fraction) == channels
        if not is_whole and config.get("model_type") == "glm4_moe_lite":
            raise UnsupportedLayout(
                f"config.json: partial_rotary_factor is {fraction}, which is not yet computed"
            )
        if not is_whole and kind != "default":
            raise UnsupportedLayout(
                f"config.json: partial_rotary_factor is {fraction}, with rope_type {kind}: "
                "transformers' class rotates whole heads, and cannot compute this"
            )
        fraction = 1.0
    return Rope(float(base), int(channels * fraction), scaling)


def window_of(config: Config, number: int) -> int | None:
    """Return how many positions a layer sees, its own among them; None: all before."""
    family = config.get("model_type")
    if family in _WITHOUT_WINDOW or config.get("sliding_window") is None:
        return None
    kinds = None if family in _ONE_WINDOW else config.get("layer_types")
    sliding = kinds[number] == "sliding_attention" if kinds else True
    if not kinds and family in ("qwen2", "qwen3"):
        sliding = config.get("use_sliding_window") and number >= config.get("max_window_layers", 28)
    return size(config, "sliding_window") if sliding else None


def with_experts(model: Model, routing: Routing, has: Callable[[int], bool]) -> Model:
    """Return the model with experts in the layers, counted from 0, that `has` says yes to."""
    layers = enumerate(model.layers)
    return replace(
        model, layers=tuple(replace(one, routing=routing) if has(n) else one for n, one in layers)
    )
