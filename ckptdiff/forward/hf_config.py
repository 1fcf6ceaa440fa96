"""Read config.json for the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward.model import Activation, Layer, Model, Rope

if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}


def read(config: Mapping[str, Any]) -> Model:
    """Return the model that transformers builds from a config.json.

    Raises UnsupportedLayout for a family that is not computed, UnknownConfig if a size is missing.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UnsupportedLayout(
            f"logits of a {family} model are not yet possible; they are of {', '.join(FAMILIES)}"
        )
    heads = _size(config, "num_attention_heads")
    hidden = _size(config, "hidden_size")
    channels = config.get("head_dim") or hidden // heads
    rope = _rope(config, int(channels))
    return Model(
        family=family,
        layers=tuple(
            Layer(rope, _window(config, number))
            for number in range(_size(config, "num_hidden_layers"))
        ),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        kv_channels=int(channels),
        layernorm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        softmax_scale=int(channels) ** -0.5,
        activation=_activation(config.get("hidden_act", "silu")),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise UnknownConfig(f"config.json: {name} is {value!r}, which is no size")
    return value


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UnsupportedLayout(f"config.json: hidden_act {name!r} is not yet computed")
    return ACTIVATIONS[name]


def _rope(config: Mapping[str, Any], channels: int) -> Rope:
    """Return the rotary positions, in the words of transformers 4 or 5."""
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = dict(told)
    if "type" in scaling:
        scaling.setdefault("rope_type", scaling.pop("type"))
    scaling.setdefault("max_position_embeddings", config.get("max_position_embeddings"))
    if "original_max_position_embeddings" in config:
        scaling.setdefault(
            "original_max_position_embeddings", config["original_max_position_embeddings"]
        )
    base = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return Rope(float(base), int(channels * share), scaling)


def _window(config: Mapping[str, Any], number: int) -> int | None:
    """Return how many positions a layer sees."""
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds:
        return window if kinds[number] == "sliding_attention" else None
    if config.get("model_type") in ("qwen2", "qwen3"):
        sliding = config.get("use_sliding_window") and number >= config.get("max_window_layers", 0)
        return window if sliding else None
    return window
