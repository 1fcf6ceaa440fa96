"""Read Megatron's args for the forward pass, as megatron-core's GPTModel is built from them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward import biases
from ckptdiff.forward.model import (
    LLAMA3,
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
    from collections.abc import Mapping

    Args = Mapping[str, Any]

_size = partial(size_of, "args")
FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek"),
    *("gemma", "gemma2", "gemma3", "gpt2", "nemotron", "olmo2", "phi3"),
)
# Settings that are not computed, and the value at which they have no effect.
_WITHOUT_EFFECT: dict[str, Any] = {
    "softmax_type": "vanilla",
    "attention_output_gate": None,
    "experimental_attention_variant": None,
    "qk_l2_norm": None,
    "no_rope_freq": None,
    "quick_geglu": None,
    "activation_func_clamp_value": None,
    "glu_linear_offset": 0.0,
    "moe_latent_size": None,
    "moe_apply_probs_on_input": None,
    "apply_residual_connection_post_layernorm": None,
}
_LLAMA3_FIELDS = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "old_context_len",
}
# What a config in YAML has to state: what it leaves out is not known, and has no default here.
_DECIDING = (
    *("num_layers", "hidden_size", "num_attention_heads", "group_query_attention"),
    *("normalization", "norm_epsilon", "activation_func", "gated_linear_unit"),
    *("position_embedding_type", "rotary_base", "share_embeddings_and_output_weights"),
)
_FUNCTIONS = frozenset({"silu", "gelu", "gelu_tanh", "squared_relu"})
_HF_RANKING = 2  # scores that rank a group of experts, hard-coded in transformers
# Families that args do not describe completely, and the fields of Model that are then taken from
# the other side's config.json.
_NORMS = ("norms_in_front", "norms_behind")
_GEMMA = ("embedding_scale", "activation", "gated")
_GEMMA2 = (*_GEMMA, *_NORMS, "attention_cap", "logit_cap")
NOT_IN_ARGS: dict[str, tuple[str, ...]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA2,
    "olmo2": (*_NORMS, "norms_all_heads"),
}
_WORDS = {
    "embedding_scale": "the scale of embeddings",
    "activation": "the activation",
    "norms_behind": "the norms behind attention and MLP",
    "norms_all_heads": "norms over all heads at once",
    "attention_cap": "the cap of attention scores",
    "logit_cap": "the cap of logits",
}


def read(args: Args, family: str, other: Model | None = None) -> Model:
    """Return the model that Megatron builds from its args.

    What no arg states for the family is taken from the `other` side's model. Raises UnknownConfig
    if a size is missing, UnsupportedLayout for what is not computed, or if the other model is
    needed and is None.
    """
    args = {name: value for name, value in args.items() if value is not None}
    _refuse(args, family)
    heads = _size(args, "num_attention_heads")
    hidden = _size(args, "hidden_size")
    channels = args.get("kv_channels") or hidden // heads
    groups = args.get("group_query_attention") and args.get("num_query_groups")
    positions = _positions(args, family)
    rope, routing = _rope(args, channels, positions), _routing(args)
    rms_norm, zero_centered = args.get("normalization") == "RMSNorm", _zero_centered(args)
    model = Model(
        family=family,
        layers=tuple(
            LayerSpec(rope, _window(args, n), routing if _has_experts(args, n) else None)
            for n in range(_size(args, "num_layers"))
        ),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups or heads,
        kv_channels=channels,
        layernorm_epsilon=_epsilon(args),
        softmax_scale=args.get("softmax_scale") or channels**-0.5,
        rms_norm=rms_norm,
        zero_centered=zero_centered,
        wide_norm=rms_norm and zero_centered,  # only Transformer Engine has both
        activation=_activation(args),
        gated=bool(args.get("swiglu")),
        tied=not args.get("untie_embeddings_and_output_weights"),
        learned_positions=positions == "learned_absolute",
        without_bias=biases.absent_in_megatron(args),
    )
    if routing is not None and routing.groups > 1 and routing.ranking != _HF_RANKING:
        note = (
            f"Megatron ranks a group of experts by the sum of its best {routing.ranking} scores "
            f"(moe_router_topk / moe_router_group_topk), transformers by that of its best "
            f"{_HF_RANKING}: neither can be set to the other's rule"
        )
        model = replace(model, notes=(*model.notes, note))
    if args.get("multi_latent_attention"):
        model = _with_latent(model, args)
    return _completed(model, args, other) if family in NOT_IN_ARGS else model


def check_stated(args: Args, file: str) -> None:
    """Raise UnknownConfig if a config in YAML leaves out what decides about the logits."""
    absent = [name for name in _DECIDING if name not in args]
    if absent:
        raise UnknownConfig(
            f"{file} does not state {', '.join(absent)}: the class that has defaults for them is "
            "not loaded, so logits cannot be computed"
        )
    function, gated = args["activation_func"], bool(args["gated_linear_unit"])
    if function not in _FUNCTIONS or gated != (function == "silu"):
        kind = "gated" if gated else "not gated"
        raise UnsupportedLayout(f"{file}: {function}, {kind}, is not yet computed")


def _refuse(args: Args, family: str) -> None:
    """Raise UnsupportedLayout for a family or a setting that is not computed."""
    if family and family not in FAMILIES:
        raise UnsupportedLayout(
            f"logits of a {family} model are not yet possible; they are of {', '.join(FAMILIES)}"
        )
    for name, harmless in _WITHOUT_EFFECT.items():
        if args.get(name) not in (None, False, harmless):
            raise UnsupportedLayout(f"args: {name} {args[name]!r} is not yet computed")


def _epsilon(args: Args) -> float:
    return float(args.get("norm_epsilon", args.get("layernorm_epsilon", 1e-5)))


def _zero_centered(args: Args) -> bool:
    return any(args.get(n) for n in ("apply_layernorm_1p", "layernorm_zero_centered_gamma"))


def _activation(args: Args) -> Activation:
    if args.get("swiglu"):
        return "silu"
    if args.get("squared_relu"):
        return "relu2"
    # The fused kernel of GELU with a bias computes the tanh form, whatever the unfused one does.
    fused = args.get("bias_gelu_fusion") and args.get("add_bias_linear")
    return "gelu_tanh" if fused or args.get("openai_gelu") else "gelu"


def _rope(args: Args, channels: int, kind: str) -> Rope | None:
    if kind == "learned_absolute":
        return None
    scaling: dict[str, Any] = {}
    if args.get("use_rope_scaling"):
        # Classes of NeMo and Megatron-Bridge state what Megatron's own code has as constants.
        own = {key: args[name] for key, name in _LLAMA3_FIELDS.items() if name in args}
        scaling = {**LLAMA3, **own, "factor": args.get("rope_scaling_factor") or 8.0}
    elif factor := args.get("rotary_seq_len_interpolation_factor"):
        scaling = {"rope_type": "linear", "factor": factor}
    fraction = args.get("rotary_percent", 1.0)
    dim = channels if fraction == 1.0 else int(channels * fraction)
    return Rope(_base(args), dim, scaling, interleaved=bool(args.get("rotary_interleaved")))


def _positions(args: Args, family: str) -> str:
    """Return the kind of positions; if no arg states it, that of the family."""
    if args.get("use_rotary_position_embeddings"):
        return "rope"
    kind = args.get("position_embedding_type")
    if kind is None:
        return "learned_absolute" if family == "gpt2" else "rope"
    if kind not in ("rope", "learned_absolute"):
        raise UnsupportedLayout(f"args: position_embedding_type {kind!r} is not yet computed")
    return str(kind)


def _base(args: Args) -> float:
    return float(args.get("rotary_base", 10000))


def _window(args: Args, number: int) -> int | None:
    """Return how many positions a layer sees, its own among them; None: all before.

    `window_size` does not count the own position. Of layers counted from 1, each
    `window_attn_skip_freq`-th has no window.
    """
    window, frequency = args.get("window_size"), args.get("window_attn_skip_freq")
    if not window or window[0] < 0:
        return None
    if isinstance(frequency, list):
        is_windowed = bool(frequency[number])
    else:
        is_windowed = frequency is None or (number + 1) % frequency != 0
    return int(window[0]) + 1 if is_windowed else None


# ── experts ──────────────────────────────────────────────────────────────────────────────────────


def _routing(args: Args) -> Routing | None:
    if not args.get("num_experts"):
        return None
    chosen, score = args.get("moe_router_topk") or 2, args.get("moe_router_score_function")
    is_sigmoid = score == "sigmoid"
    if score not in (None, "softmax", "sigmoid"):
        raise UnsupportedLayout(f"args: moe_router_score_function {score!r} is not yet computed")
    if args.get("moe_router_load_balancing_type") == "sinkhorn":
        raise UnsupportedLayout("args: routing by sinkhorn is not yet computed")
    groups = args.get("moe_router_num_groups") or 1
    chosen_groups = args.get("moe_router_group_topk") or 1
    is_wide = args.get("moe_router_dtype") in ("fp32", "fp64")
    return Routing(
        experts=_size(args, "num_experts"),
        chosen=chosen,
        score="sigmoid" if is_sigmoid else "softmax",
        normalized=is_sigmoid or not args.get("moe_router_pre_softmax"),
        scaling=float(args.get("moe_router_topk_scaling_factor") or 1.0),
        groups=groups if args.get("moe_router_group_topk") else 1,
        chosen_groups=chosen_groups,
        ranking=chosen // chosen_groups,
        wide_logits=is_wide,
        wide_weights=is_wide,
    )


def _has_experts(args: Args, number: int) -> bool:
    freq = args.get("moe_layer_freq")
    if isinstance(freq, list):
        return bool(freq[number])
    return number % (freq or 1) == 0


# ── latent attention ─────────────────────────────────────────────────────────────────────────────


def _with_latent(model: Model, args: Args) -> Model:
    """Return the model with MLATransformerConfig's attention."""
    if args.get("rotary_interleaved"):
        raise UnsupportedLayout("args: latent attention with rotary_interleaved is not computed")
    latent = Latent(
        query_rank=args.get("q_lora_rank"),
        rank=_size(args, "kv_lora_rank"),
        unrotated=_size(args, "qk_head_dim"),
        rotated=_size(args, "qk_pos_emb_head_dim"),
        value=_size(args, "v_head_dim"),
        epsilon=_epsilon(args),
    )
    factor = float(args.get("rotary_scaling_factor", 40.0))  # MLATransformerConfig's default
    mscale, all_dim = args.get("mscale", 1.0), args.get("mscale_all_dim", 0.0)
    scaling: dict[str, Any] = {}
    if (args.get("rope_type") or "yarn") == "yarn":
        attention_factor = yarn_scale(factor, mscale) / yarn_scale(factor, all_dim)
        original_length = args.get("original_max_position_embeddings")
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_length
            or args.get("max_position_embeddings"),
            "beta_fast": args.get("beta_fast") or 32.0,
            "beta_slow": args.get("beta_slow") or 1.0,
            "attention_factor": attention_factor,
        }
    rope = Rope(_base(args), latent.rotated, scaling, interleaved=True, regroups=True)
    scale = (latent.unrotated + latent.rotated) ** -0.5 * yarn_scale(factor, all_dim) ** 2
    return replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
    )


# ── what no arg states ───────────────────────────────────────────────────────────────────────────


def _completed(model: Model, args: Args, other: Model | None) -> Model:
    """Return the model with what no arg states from the other side. Raises UnsupportedLayout."""
    if other is None:
        raise UnsupportedLayout(
            f"Megatron's args cannot tell all of a {model.family} model; compare it with a Hugging "
            "Face folder, whose config.json does"
        )
    names = list(NOT_IN_ARGS[model.family])
    if args.get("swiglu") or args.get("squared_relu"):
        names = [name for name in names if name not in ("activation", "gated")]
    taken = [_WORDS[name] for name in names if name in _WORDS]
    changes = {name: getattr(other, name) for name in names}
    if model.family == "olmo2":
        changes["wide_norm"] = False
    scaled = other.softmax_scale != other.kv_channels**-0.5
    if scaled and not args.get("softmax_scale"):
        changes["softmax_scale"] = other.softmax_scale
        taken.append("the scale of attention")
    layers = model.layers
    if len(layers) == len(other.layers):
        if not args.get("window_size") and any(layer.window for layer in other.layers):
            layers = tuple(
                replace(own, window=others.window)
                for own, others in zip(layers, other.layers, strict=True)
            )
            taken.append("windows")
        if len({layer.rope and layer.rope.base for layer in other.layers}) > 1:
            layers = tuple(
                own if others.window is None else replace(own, rope=others.rope)
                for own, others in zip(layers, other.layers, strict=True)
            )
            taken.append("the rotary base of layers with a window")
    listed = ", ".join(taken)
    note = f"Megatron's args cannot tell {listed}: taken from the other side's config.json"
    return replace(model, **changes, layers=layers, notes=(*model.notes, note))
