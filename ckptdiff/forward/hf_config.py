"""Read config.json for the forward pass; an absent field has the default of transformers' class."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward import biases
from ckptdiff.forward.model import (
    Activation,
    Latent,
    LayerSpec,
    Model,
    Rope,
    Routing,
    size_of,
    yarn_scale,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}

# Of the norms of latent vectors: DeepSeek's class does not use the config's epsilon for them.
_LATENT_EPSILON = 1e-6

# Classes whose plain rotary positions leave a part of a head as it is; the others rotate all of it.
_PARTLY_ROTATED = ("nemotron", "phi3")

# Classes that read no window, and those that have it in all layers, whatever `layer_types` lists.
_WITHOUT_WINDOW = ("llama", "deepseek_v3", "gemma", "gpt2", "nemotron", "olmo2")
_ONE_WINDOW = ("mistral", "mixtral", "phi3", "qwen3_moe")

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

_size = partial(size_of, "config.json")


def read(config: Config) -> Model:
    """Return the model that transformers builds from a config.json.

    Raises UnsupportedLayout for a family or a setting that is not computed, UnknownConfig if a size
    is missing or makes no sense.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UnsupportedLayout(
            f"logits of a {family} model are not yet possible; they are of {', '.join(FAMILIES)}"
        )
    return FAMILIES[family](config)


# ── what families share ──────────────────────────────────────────────────────────────────────────


def _llama(config: Config, **defaults: Any) -> Model:
    """Return a model whose config has Llama's fields; `defaults` are for missing ones."""
    given = {name: value for name, value in config.items() if value is not None}
    config = {**defaults, **given}
    heads = _size(config, "num_attention_heads")
    hidden = _size(config, "hidden_size")
    channels = int(config.get("head_dim") or hidden // heads)
    rope = _rope(config, channels)
    return Model(
        family=str(config["model_type"]),
        layers=tuple(
            LayerSpec(rope, _window(config, number))
            for number in range(_size(config, "num_hidden_layers"))
        ),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        kv_channels=channels,
        layernorm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        softmax_scale=channels**-0.5,
        activation=_activation(config.get("hidden_act", "silu")),
        tied=bool(config.get("tie_word_embeddings", False)),
        without_bias=biases.absent_in_transformers(config),
    )


def _experts(config: Config) -> int:
    """Return how many experts there are, by the field of transformers 4 or 5."""
    names = "num_local_experts", "num_experts", "n_routed_experts"
    return _size(config, next((name for name in names if name in config), names[0]))


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UnsupportedLayout(f"config.json: the activation {name!r} is not yet computed")
    return ACTIVATIONS[name]


def _refuse(config: Config, *names: str) -> None:
    """Raise UnsupportedLayout if one of these settings is on: it changes what is computed."""
    for name in names:
        if config.get(name):
            raise UnsupportedLayout(f"config.json: {name} is on, which is not yet computed")


def _rope(config: Config, channels: int) -> Rope:
    """Return the rotary positions, from the fields of transformers 4 or 5, as 5 reads them."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise UnknownConfig(f"config.json: rope_scaling is {given!r}; an object is needed")
    scaling = {name: value for name, value in given.items() if value is not None}
    if "type" in scaling:
        scaling.setdefault("rope_type", scaling.pop("type"))
    scaling.setdefault("max_position_embeddings", config.get("max_position_embeddings"))
    if "original_max_position_embeddings" in config:
        scaling.setdefault(
            "original_max_position_embeddings", config["original_max_position_embeddings"]
        )
    kind = str(scaling.get("rope_type", "default"))
    for name in _ROPE_FIELDS.get(kind, ()):
        if scaling.get(name) is None:
            raise UnknownConfig(f"config.json: rope_scaling of type {kind} says no {name}")
    base: Any = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    fraction: Any = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if config.get("model_type") not in _PARTLY_ROTATED:
        if kind != "default" and int(channels * fraction) != channels:
            raise UnsupportedLayout(
                f"config.json: partial_rotary_factor is {fraction}, with rope_type {kind}: "
                "transformers' class rotates whole heads, and cannot compute this"
            )
        fraction = 1.0
    return Rope(float(base), int(channels * fraction), scaling)


def _window(config: Config, number: int) -> int | None:
    """Return how many positions a layer sees, its own among them; None: all before."""
    family, window = config.get("model_type"), config.get("sliding_window")
    if family in _WITHOUT_WINDOW:
        return None
    kinds = None if family in _ONE_WINDOW else config.get("layer_types")
    if kinds:
        return window if kinds[number] == "sliding_attention" else None
    if family in ("qwen2", "qwen3"):
        sliding = config.get("use_sliding_window") and number >= config.get("max_window_layers", 28)
        return window if sliding else None
    return window


def _with_experts(model: Model, routing: Routing, has: Callable[[int], bool]) -> Model:
    """Return the model with experts in the layers, counted from 0, that `has` says yes to."""
    layers = enumerate(model.layers)
    return replace(
        model, layers=tuple(replace(one, routing=routing) if has(n) else one for n, one in layers)
    )


# ── families ─────────────────────────────────────────────────────────────────────────────────────


def _mixtral(config: Config) -> Model:
    routing = Routing(
        experts=_experts(config),
        chosen=_size(config, "num_experts_per_tok", 2),
        wide_weights=True,
    )
    model = _llama(config, rope_theta=1e6, rms_norm_eps=1e-5)
    return _with_experts(model, routing, lambda _: True)


def _qwen_moe(config: Config, chosen: int) -> Model:
    """Return a model with experts in each `decoder_sparse_step`-th layer but `mlp_only_layers`.

    `chosen` is the default of `num_experts_per_tok`.
    """
    routing = Routing(
        experts=_experts(config),
        chosen=_size(config, "num_experts_per_tok", chosen),
        normalized=bool(config.get("norm_topk_prob", False)),
    )
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    return _with_experts(_llama(config), routing, lambda n: n not in dense and (n + 1) % step == 0)


def _qwen2_moe(config: Config) -> Model:
    count, slides = _size(config, "num_hidden_layers"), config.get("use_sliding_window")
    most = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if slides and n % 2 == 0 and n < most else "full_attention"
        for n in range(count)
    ]
    return _qwen_moe({**config, "layer_types": kinds}, 4)


def _qwen3_moe(config: Config) -> Model:
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return _qwen_moe({**config, "sliding_window": window}, 8)


def _deepseek(config: Config) -> Model:
    if config.get("scoring_func", "sigmoid") != "sigmoid":
        raise UnsupportedLayout(f"config.json: scoring_func is {config['scoring_func']!r}")
    latent = Latent(
        query_rank=config.get("q_lora_rank"),
        rank=_size(config, "kv_lora_rank"),
        unrotated=_size(config, "qk_nope_head_dim"),
        rotated=_size(config, "qk_rope_head_dim"),
        value=_size(config, "v_head_dim"),
        epsilon=_LATENT_EPSILON,
    )
    routing = Routing(
        experts=_experts(config),
        chosen=_size(config, "num_experts_per_tok"),
        score="sigmoid",
        normalized=bool(config.get("norm_topk_prob", True)),
        scaling=float(config.get("routed_scaling_factor", 2.5)),
        groups=_size(config, "n_group", 8),
        chosen_groups=_size(config, "topk_group", 4),
        wide_logits=True,
        wide_weights=True,
    )
    model = _llama({**config, "head_dim": latent.rotated})
    rope = replace(
        _rope(config, latent.rotated),
        interleaved=bool(config.get("rope_interleave", True)),
        regroups=True,
    )
    notes: tuple[str, ...] = ()
    if model.layernorm_epsilon != _LATENT_EPSILON:
        notes = (
            f"transformers normalises what attention is expanded from with {_LATENT_EPSILON:g}, "
            "not with rms_norm_eps; Megatron has one epsilon",
        )
    scale = (latent.unrotated + latent.rotated) ** -0.5
    if rope.kind != "default" and (all_dim := rope.scaling.get("mscale_all_dim")):
        scale *= yarn_scale(rope.scaling["factor"], all_dim) ** 2
    model = replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
        notes=notes,
    )
    dense = config.get("first_k_dense_replace", 3)
    return _with_experts(model, routing, lambda n: n >= dense)


def _gemma(config: Config, activation: str = "hidden_act", **defaults: Any) -> Model:
    """Return a Gemma: norm weights are stored less one, the embedding is scaled and tied.

    `activation` is the field that names the activation, `defaults` are for missing ones.
    """
    _refuse(config, "use_bidirectional_attention")
    model = _llama(config, head_dim=256, tie_word_embeddings=True, **defaults)
    named = config.get(activation) or "gelu_pytorch_tanh"
    if (activation, named) == ("hidden_act", "gelu"):
        named = "gelu_pytorch_tanh"  # the class takes what its first releases state for that
    return replace(
        model,
        activation=_activation(named),
        zero_centered=True,
        wide_norm=True,
        embedding_scale=model.hidden_size**0.5,
    )


def _gemma2(config: Config, every: int = 2, caps: tuple[float | None, ...] = (50.0, 30.0)) -> Model:
    """Return a Gemma 2: each `every`-th layer has no window. `caps`: of attention and of logits."""
    kinds = config.get("layer_types") or [
        "full_attention" if (n + 1) % every == 0 else "sliding_attention"
        for n in range(_size(config, "num_hidden_layers"))
    ]
    model = _gemma({**config, "layer_types": kinds}, "hidden_activation", sliding_window=4096)
    return replace(
        model,
        norms_behind=True,
        softmax_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        attention_cap=config.get("attn_logit_softcapping", caps[0]),
        logit_cap=config.get("final_logit_softcapping", caps[1]),
    )


def _gemma3(config: Config) -> Model:
    """Return a Gemma 3: layers with a window have a rotary base of their own."""
    by_kind = config.get("rope_parameters") or {}
    full = by_kind.get("full_attention") or {
        "rope_theta": config.get("rope_theta", 1e6),
        **(config.get("rope_scaling") or {}),
    }
    sliding = by_kind.get("sliding_attention") or {}
    sliding = {"rope_theta": config.get("rope_local_base_freq", 1e4), **sliding}
    plain = {**config, "rope_scaling": None}  # is in `full` already
    with_full_rope = {**plain, "rope_parameters": {"rope_theta": 1e6, **full}}
    model = _gemma2(with_full_rope, config.get("sliding_window_pattern", 6), (None, None))
    windowed_rope = _rope({**plain, "rope_parameters": sliding}, model.kv_channels)
    return replace(
        model,
        layers=tuple(
            one if one.window is None else replace(one, rope=windowed_rope) for one in model.layers
        ),
    )


def _gpt2(config: Config) -> Model:
    _refuse(config, "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
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
    model = _llama({**config, **words, **unused}, tie_word_embeddings=True)
    return replace(
        model,
        layers=tuple(LayerSpec(None) for _ in model.layers),
        layernorm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        softmax_scale=model.softmax_scale if config.get("scale_attn_weights", True) else 1.0,
        activation=_activation(config.get("activation_function", "gelu_new")),
        rms_norm=False,
        gated=False,
        learned_positions=True,
    )


def _nemotron(config: Config) -> Model:
    model = _llama(config, partial_rotary_factor=0.5, hidden_act="relu2")
    epsilon = float(config.get("norm_eps", 1e-5))
    return replace(
        model, layernorm_epsilon=epsilon, rms_norm=False, zero_centered=True, gated=False
    )


def _phi3(config: Config) -> Model:
    return _llama(config, rms_norm_eps=1e-5)


def _olmo2(config: Config) -> Model:
    """Return an OLMo 2: norms come after attention and after the MLP, and not before them."""
    model = _llama(config, rms_norm_eps=1e-5)
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


# By `model_type`.
FAMILIES: dict[str, Callable[[Config], Model]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _llama),
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v3": _deepseek,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "nemotron": _nemotron,
    "olmo2": _olmo2,
    "phi3": _phi3,
}
