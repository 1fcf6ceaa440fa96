"""Read config.json of hybrids; the names of functions are those of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward.hf_config.base import llama, size
from ckptdiff.forward.hf_config.experts import qwen_moe
from ckptdiff.forward.model import DeltaNet

if TYPE_CHECKING:
    from ckptdiff.forward.hf_config.base import Config
    from ckptdiff.forward.model import Mixer, Model

_QWEN: dict[str, Any] = {"head_dim": 256, "partial_rotary_factor": 0.25}
_KINDS: dict[str, Mixer] = {"full_attention": "attention", "linear_attention": "delta_net"}


def qwen3_next(config: Config) -> Model:
    config = _with_defaults(config, norm_topk_prob=True)
    return _with_delta_net(qwen_moe(config, 10) if _has_experts(config) else llama(config), config)


def qwen3_5(config: Config) -> Model:
    config = _with_defaults(config)
    return _with_delta_net(llama(config), config)


def qwen3_5_moe(config: Config) -> Model:
    """Return a Qwen3.5 whose layers all have experts; the class reads no setting of that."""
    fixed = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": None}
    config = _with_defaults({**config, **fixed})
    return _with_delta_net(qwen_moe(config, 8), config)


def _has_experts(config: Config) -> bool:
    return config.get("num_experts") != 0


def _with_defaults(config: Config, **defaults: Any) -> dict[str, Any]:
    """Return the config with the classes' defaults, and without what they do not read."""
    given = {name: value for name, value in config.items() if value is not None}
    return {**_QWEN, **defaults, **given, "sliding_window": None}


def _with_delta_net(model: Model, config: Config) -> Model:
    """Return the model with a gated DeltaNet in the layers that the config says.

    Raises UnsupportedLayout, or UnknownConfig for a list of layers of another length.
    """
    if model.activation != "silu":
        raise UnsupportedLayout(
            f"config.json: hidden_act {config['hidden_act']!r} is not yet computed of a DeltaNet"
        )
    interval = size(config, "full_attention_interval", 4)
    kinds = config.get("layer_types") or [
        "linear_attention" if (n + 1) % interval else "full_attention"
        for n in range(len(model.layers))
    ]
    if len(kinds) < len(model.layers) or not set(kinds) <= _KINDS.keys():
        raise UnknownConfig(f"config.json: layer_types are {kinds}: each is one of {list(_KINDS)}")
    layers = (
        replace(layer, mixer=_KINDS[kind], rope=layer.rope if kind == "full_attention" else None)
        for layer, kind in zip(model.layers, kinds, strict=False)
    )
    return replace(
        model,
        layers=tuple(layers),
        zero_centered=True,
        wide_norm=True,
        output_gate=True,
        delta_net=DeltaNet(
            key_heads=size(config, "linear_num_key_heads", 16),
            value_heads=size(config, "linear_num_value_heads", 32),
            key_channels=size(config, "linear_key_head_dim", 128),
            value_channels=size(config, "linear_value_head_dim", 128),
        ),
    )
