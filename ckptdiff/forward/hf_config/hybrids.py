"""Read config.json of hybrids; the names of functions are those of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward.hf_config.base import activation_of, llama, size
from ckptdiff.forward.hf_config.experts import qwen_moe
from ckptdiff.forward.model import DeltaNet, Fixed, LayerSpec, Mamba, Routing, hybrid_layer

if TYPE_CHECKING:
    from ckptdiff.forward.hf_config.base import Config
    from ckptdiff.forward.model import Mixer, Model

_QWEN: dict[str, Any] = {"head_dim": 256, "partial_rotary_factor": 0.25}
_KINDS: dict[str, Mixer] = {"full_attention": "attention", "linear_attention": "delta_net"}

# Nemotron-H's kinds of layers, by the letter of its pattern, in the words of transformers 4 and 5.
_NEMOTRON_H = {
    "M": ("mamba", "linear_attention"),
    "*": ("attention", "full_attention"),
    "-": ("mlp",),
    "E": ("moe",),
}


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
    """Return the config with the classes' defaults."""
    given = {name: value for name, value in config.items() if value is not None}
    return {**_QWEN, **defaults, **given}


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


def nemotron_h(config: Config) -> Model:
    """Return a Nemotron-H: each layer is a Mamba mixer, attention, an MLP or experts."""
    config = {name: value for name, value in config.items() if value is not None}
    if config.get("mamba_hidden_act", "silu") != "silu":
        raise UnsupportedLayout(
            f"config.json: mamba_hidden_act {config['mamba_hidden_act']!r} is not yet computed"
        )
    kinds = _kinds(config)
    routing = Routing(
        experts=size(config, "num_local_experts", size(config, "n_routed_experts", 8)),
        chosen=size(config, "num_experts_per_tok", 2),
        score="sigmoid",
        biased=True,
        normalized=bool(config.get("norm_topk_prob", True)),
        scaling=float(config.get("routed_scaling_factor", 1.0)),
        groups=size(config, "n_group", 1),
        chosen_groups=size(config, "topk_group", 1),
        wide_logits=True,
        wide_weights=True,
        wide_sum=True,
    )
    epsilon = float(config.get("layer_norm_epsilon", 1e-5))
    least = float(config.get("mamba_dt_min", config.get("time_step_min", 0.001)))
    note = f"transformers takes no step of a Mamba layer below {least:g}; Megatron takes any"
    # The class counts layers by their kinds, and reads no hidden_act.
    plain = {**config, "hidden_act": None, "num_hidden_layers": len(kinds)}
    model = llama(plain, head_dim=128, num_attention_heads=32, num_key_value_heads=8)
    return replace(
        model,
        layers=tuple(hybrid_layer(letter, LayerSpec(None), routing) for letter in kinds),
        layernorm_epsilon=epsilon,
        wide_norm=True,
        activation=activation_of(config.get("mlp_hidden_act", "relu2")),
        gated=False,
        mamba=Mamba(
            heads=size(config, "mamba_num_heads", 128),
            channels=size(config, "mamba_head_dim", 64),
            groups=size(config, "mamba_n_groups", config.get("n_groups", 8)),
            states=size(config, "ssm_state_size", 128),
            epsilon=epsilon,
            least_step=least,
        ),
        expert_latent=config.get("moe_latent_size"),
        fixed=(Fixed(note, frozenset({"dt_size"})),) if least > 0 else (),
    )


def _kinds(config: Config) -> str:
    """Return a letter of the pattern for each layer. Raises UnknownConfig."""
    listed = config.get("layers_block_type") or config.get("layer_types")
    if listed:
        letters = {word: letter for letter, words in _NEMOTRON_H.items() for word in words}
        if not set(listed) <= letters.keys():
            raise UnknownConfig(
                f"config.json: layers are {listed}: each is one of {', '.join(letters)}"
            )
        return "".join(letters[word] for word in listed)
    return str(config.get("hybrid_override_pattern", "ME*-"))  # the class's default layers
