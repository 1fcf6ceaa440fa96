"""Read config.json of families without experts; the names of functions are those of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.hf_config.base import activation_of, llama, refuse, rope_of, size
from ckptdiff.forward.model import LayerSpec, Model

if TYPE_CHECKING:
    from ckptdiff.forward.hf_config.base import Config


def gemma(config: Config, activation: str = "hidden_act", **defaults: Any) -> Model:
    """Return a Gemma: norm weights are stored less one, the embedding is scaled and tied.

    `activation` is the field that names the activation, `defaults` are for missing ones.
    """
    model = llama(config, head_dim=256, tie_word_embeddings=True, **defaults)
    named = config.get(activation) or "gelu_pytorch_tanh"
    if (activation, named) == ("hidden_act", "gelu"):
        named = "gelu_pytorch_tanh"  # the class takes what its first releases state for that
    return replace(
        model,
        activation=activation_of(named),
        zero_centered=True,
        wide_norm=True,
        embedding_scale=model.hidden_size**0.5,
    )


def gemma2(config: Config, every: int = 2, caps: tuple[float | None, ...] = (50.0, 30.0)) -> Model:
    """Return a Gemma 2: each `every`-th layer has no window. `caps`: of attention and of logits."""
    kinds = {**config, "layer_types": _kinds(config, every)}
    model = gemma(kinds, "hidden_activation", sliding_window=4096)
    return replace(
        model,
        norms_behind=True,
        softmax_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        attention_cap=config.get("attn_logit_softcapping", caps[0]),
        logit_cap=config.get("final_logit_softcapping", caps[1]),
    )


def gemma3(config: Config) -> Model:
    """Return a Gemma 3: layers with a window have a rotary base of their own."""
    refuse(config, "use_bidirectional_attention")
    by_kind = config.get("rope_parameters") or {}
    truncate = by_kind.get("truncate", True)  # it is read outside of the objects
    full, sliding = (
        {"rope_theta": config.get(name, base), **(by_kind.get(kind) or {}), "truncate": truncate}
        for kind, name, base in (
            ("full_attention", "rope_theta", 1e6),
            ("sliding_attention", "rope_local_base_freq", 1e4),
        )
    )
    full = {**full, **(config.get("rope_scaling") or {}), "truncate": truncate}
    # Of these the first is in `full` already, the second counts for classes with one object alone,
    # and the class takes no cap of scores.
    beside = "rope_scaling", "original_max_position_embeddings", "attn_logit_softcapping"
    plain = {**config, **dict.fromkeys(beside)}
    with_full_rope = {**plain, "rope_parameters": full}
    model = gemma2(with_full_rope, config.get("sliding_window_pattern", 6), (None, None))
    windowed_rope = rope_of({**plain, "rope_parameters": sliding}, model.kv_channels)
    return replace(
        model,
        layers=tuple(
            one if one.window is None else replace(one, rope=windowed_rope) for one in model.layers
        ),
    )


def gpt2(config: Config) -> Model:
    refuse(config, "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
    words = {
        llama: config[ours]
        for ours, llama in (
            ("n_layer", "num_hidden_layers"),
            ("n_embd", "hidden_size"),
            ("n_head", "num_attention_heads"),
        )
        if ours in config
    }
    unused = {"head_dim": None, "num_key_value_heads": None}  # fields that the class does not read
    # The class takes the other name of a size, if both are there.
    model = llama({**words, **config, **unused}, tie_word_embeddings=True)
    return replace(
        model,
        layers=tuple(LayerSpec(None) for _ in model.layers),
        layernorm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        softmax_scale=model.softmax_scale if config.get("scale_attn_weights", True) else 1.0,
        activation=activation_of(config.get("activation_function", "gelu_new")),
        rms_norm=False,
        gated=False,
        learned_positions=True,
    )


def nemotron(config: Config) -> Model:
    model = llama(config, partial_rotary_factor=0.5, hidden_act="relu2")
    epsilon = float(config.get("norm_eps", 1e-5))
    return replace(
        model, layernorm_epsilon=epsilon, rms_norm=False, zero_centered=True, gated=False
    )


def phi3(config: Config) -> Model:
    return llama(config, rms_norm_eps=1e-5, original_max_position_embeddings=4096)


def smollm3(config: Config) -> Model:
    """Return a SmolLM3: listed layers have no positions, and those alone a window, if any has."""
    count = size(config, "num_hidden_layers")
    every = config.get("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers") or [(n + 1) % every for n in range(count)]
    has_window = config.get("use_sliding_window") and config.get("sliding_window") is not None
    kinds = config.get("layer_types") or [
        "full_attention" if one or not has_window else "sliding_attention" for one in rotated
    ]
    given = {**config, "layer_types": kinds}
    model = llama(given, tie_word_embeddings=True, rope_theta=2e6)
    layers = zip(model.layers, rotated, strict=False)  # a longer list is read in part
    return replace(
        model, layers=tuple(one if on else replace(one, rope=None) for one, on in layers)
    )


def gpt_neox(config: Config) -> Model:
    words = {
        "rope_theta": config.get("rotary_emb_base", 1e4),
        "partial_rotary_factor": config.get("rotary_pct", 0.25),
        "hidden_act": config.get("hidden_act", "gelu"),
        "head_dim": None,
        "num_key_value_heads": None,
    }
    model = llama({**config, **words})
    if config.get("head_dim", model.kv_channels) != model.kv_channels:
        # The class makes its rotary table of this size, and its heads of the other.
        raise UnsupportedLayout(
            f"config.json: head_dim is {config['head_dim']}, and heads have {model.kv_channels} "
            "channels: this is not yet computed"
        )
    return replace(
        model,
        layernorm_epsilon=float(config.get("layer_norm_eps", 1e-5)),
        rms_norm=False,
        gated=False,
        parallel_residual=bool(config.get("use_parallel_residual", True)),
    )


def exaone4(config: Config) -> Model:
    """Return an EXAONE 4: if some layers have a window, those without one have no positions."""
    config = {"sliding_window": 4096, "sliding_window_pattern": 4, **config}
    if config["sliding_window"] is None:
        config = {**config, "layer_types": None}
    else:
        config = {**config, "layer_types": _kinds(config, config["sliding_window_pattern"])}
    model = llama(config, rms_norm_eps=1e-5)
    layers = model.layers
    if config["sliding_window"] is not None:
        layers = tuple(one if one.window else replace(one, rope=None) for one in layers)
    return replace(model, layers=layers, norms_in_front=False, norms_behind=True)


def olmo3(config: Config) -> Model:
    """Return an OLMo 3: an OLMo 2 in which most layers have a window, and RoPE goes by that."""
    config = {"sliding_window": 4096, **config}
    by_kind = {
        kind: {
            "rope_type": "default",
            **((config.get("rope_parameters") or {}).get(kind) or {}),
        }
        for kind in ("full_attention", "sliding_attention")
    }
    full, sliding = by_kind.values()
    full.update(config.get("rope_scaling") or {})
    full.setdefault("rope_theta", config.get("rope_theta", 5e5))
    sliding.setdefault("rope_theta", 5e5)
    for given in by_kind.values():
        given.pop("truncate", None)  # transformers looks for it outside of these
    plain = {**config, "rope_scaling": None, "layer_types": _kinds(config, 4)}
    model, windowed = (olmo2({**plain, "rope_parameters": given}) for given in (full, sliding))
    pairs = zip(model.layers, windowed.layers, strict=True)
    return replace(model, layers=tuple(two if two.window else one for one, two in pairs))


def _kinds(config: Config, every: int) -> list[str]:
    """Return the kinds of layers; if none are listed, each `every`-th has no window."""
    return config.get("layer_types") or [
        "full_attention" if (n + 1) % every == 0 else "sliding_attention"
        for n in range(size(config, "num_hidden_layers"))
    ]


def olmo2(config: Config) -> Model:
    """Return an OLMo 2: norms come after attention and after the MLP, and not before them."""
    model = llama(config, rms_norm_eps=1e-5)
    return replace(
        model,
        layers=tuple(
            replace(layer, rope=layer.rope and replace(layer.rope, is_wide=True))
            for layer in model.layers
        ),
        wide_norm=True,
        norms_in_front=False,
        norms_behind=True,
        norms_all_heads=True,
    )
