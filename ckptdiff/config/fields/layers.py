"""What a layer computes: norms, activation, and the scale of attention."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    by_family,
    default,
    equal,
    first,
    flags,
    from_tensors,
    guarded,
    is_number,
    null_means,
    number,
    only,
    sets,
    sets_in,
    sets_nothing,
    show,
    stated,
    switch,
    where,
    whole,
)
from ckptdiff.config.fields.biases import BIASES
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.fixes import FlagFix
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.config.fields.base import Settings

WITHOUT_GATE = frozenset({"gpt2", "nemotron", "gpt_neox", "nemotron_h"})
# If config.json has none; 1e-6 for the others.
EPSILONS = dict.fromkeys(
    (
        *("gpt2", "gpt_neox", "mixtral", "nemotron", "nemotron_h"),
        *("phi3", "olmo2", "exaone4", "olmoe", "gpt_oss", "glm4_moe", "ernie4_5"),
    ),
    1e-5,
)
LAYER_NORM = frozenset({"gpt2", "gpt_neox", "nemotron"})
# Norm weights are stored less one, by Hugging Face and by Megatron.
ZERO_CENTRED = frozenset(
    {"nemotron", "gemma", "gemma2", "gemma3", "qwen3_next", "qwen3_5", "qwen3_5_moe"}
)
QK_NORM = frozenset(
    {
        *("qwen3", "qwen3_moe", "qwen3_vl_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe"),
        *("deepseek", "gemma3", "olmo2", "exaone4", "olmoe", "minimax_m2"),
    }
)
_NORM_TENSORS = from_tensors(("q_norm.weight", "a_layernorm.weight"), "norm")
GEMMAS = frozenset({"gemma2", "gemma3"})

_ACTIVATIONS = {
    "silu": "SiLU",
    "swish": "SiLU",
    "gelu": "GELU",
    "gelu_new": "tanh GELU",
    "gelu_pytorch_tanh": "tanh GELU",
    "gelu_fast": "tanh GELU",
    "quick_gelu": "quick GELU",
    "relu2": "squared ReLU",
    "relu": "ReLU",
}

_FUNCTIONS = {"gelu_tanh": "tanh GELU", "squared_relu": "squared ReLU"}  # as Megatron calls them

_DEFAULTS = {
    "gpt2": "gelu_new",
    "gpt_neox": "gelu",
    **dict.fromkeys(("nemotron", "nemotron_h"), "relu2"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3"), "gelu_pytorch_tanh"),
}

_SWITCHES = {
    "swiglu": "gated SiLU",
    "quick_geglu": "gated quick GELU",
    "squared_relu": "squared ReLU",
    "openai_gelu": "tanh GELU",
}

_OF_LEGACY = "openai_gelu"  # no core model reads it

# What GPT-OSS computes (transformers' GptOssExperts: alpha 1.702, swiglu_limit 7, up + 1).
_CLAMPED = "clamped gated quick GELU"
_QUICK = "gated quick GELU"
_CHANGES = {"glu_linear_offset": 1.0, "activation_func_clamp_value": 7.0}  # to it
_ALPHA = 1.702
_CHANGE = re.compile(r"(\w+) ([\d.]+)(?:,|$)")


def _activation_hf(side: ConfigSide) -> Stated | None:
    if side.family is None and side.kind == "hf":
        gated = from_tensors(("gate_proj.weight", "w1.weight"), "gate")(side)
    else:
        gated = Stated(side.family not in WITHOUT_GATE)
    names = ("hidden_activation", "hidden_act", "activation_function", "mlp_hidden_act")
    if side.family == "gpt_oss":
        return _of_gpt_oss(side)
    other = _DEFAULTS.get(side.family or "", "silu")
    found = stated(*names)(side) or Stated(other, None, other, TRANSFORMERS)
    # Gemma's class takes `gelu`, which its first releases state, for the tanh form.
    named = "gelu_pytorch_tanh" if (side.family, found.value) == ("gemma", "gelu") else found.value
    word = _ACTIVATIONS.get(named, str(named))
    gate = "gated " if gated is not None and gated.value else ""
    return Stated(gate + word, found.name, found.raw, found.source)


def _of_gpt_oss(side: ConfigSide) -> Stated:
    limit, alpha = side.get("swiglu_limit"), side.get("swiglu_alpha")
    changes = {**_CHANGES, **({"activation_func_clamp_value": limit} if is_number(limit) else {})}
    value = _with_changes(_QUICK, changes)
    if is_number(alpha) and not equal(alpha, _ALPHA):
        return Stated(f"{value}, swiglu_alpha {show(alpha)}", "swiglu_alpha", alpha)
    if side.has("swiglu_limit"):
        return Stated(value, "swiglu_limit", limit)
    return Stated(value, None, _CHANGES["activation_func_clamp_value"], "every gpt_oss model")


def _with_changes(word: str, changes: Mapping[str, Any]) -> str:
    if word == _QUICK and changes == _CHANGES:
        return _CLAMPED
    return f"{word} with {', '.join(f'{name} {show(value)}' for name, value in changes.items())}"


def _changes(value: str) -> dict[str, float]:
    """Return what is changed of gated quick GELU, by Megatron's args; empty for all else."""
    if value == _CLAMPED:
        return dict(_CHANGES)
    return {n: float(v) for n, v in _CHANGE.findall(value)} if value.startswith(_QUICK) else {}


def _activation_megatron(side: ConfigSide) -> Stated | None:
    found = _unchanged_megatron(side)
    changes = {name: side.get(name) for name in _CHANGES if side.get(name)}
    if found is None or not changes:
        return found
    value = _with_changes(found.value, changes)
    if value == _CLAMPED:
        return replace(found, value=value)
    words = value.removeprefix(str(found.value))
    return replace(found, value=value, raw=f"{config_value_text(found.raw)}{words}")


def _unchanged_megatron(side: ConfigSide) -> Stated | None:
    function = side.get("activation_func")  # in YAML, where args have switches
    if isinstance(function, str):
        fused = side.get("bias_gelu_fusion") and side.get("add_bias_linear")
        word = _FUNCTIONS.get(function, _ACTIVATIONS.get(function, function))
        gate = "gated " if side.get("gated_linear_unit") else ""
        value = "tanh GELU" if fused and gate + word == "GELU" else gate + word
        return Stated(value, "activation_func", function)
    for name, value in _SWITCHES.items():
        if side.get(name) and (name != _OF_LEGACY or side.get("use_legacy_models")):
            return Stated(value, name, side.get(name))
    if not side.has("swiglu"):
        return None
    # The fused kernel of GELU with a bias computes the tanh form, whatever the unfused one does.
    if side.get("bias_gelu_fusion") and side.get("add_bias_linear"):
        return Stated("tanh GELU", "bias_gelu_fusion", side.get("bias_gelu_fusion"))
    either = side.get(_OF_LEGACY) and not side.has("use_legacy_models")
    if either or not side.has("bias_gelu_fusion"):
        return Stated("GELU of either form", "swiglu", side.get("swiglu"))
    decides = "bias_gelu_fusion" if side.get("add_bias_linear") else "swiglu"
    return Stated("GELU", decides, side.get(decides))


def _activation_fix(value: Any, side: ConfigSide) -> FlagFix | None:
    settings = guarded(_activation_args, value, side)
    wanted = {name: one for name, one in (settings or {}).items() if one}
    given = (name for name in _SWITCHES if side.get(name) and name not in wanted)
    left_out = tuple(f"--{name.replace('_', '-')}" for name in given)
    if settings is None or (value == "tanh GELU" and not side.get("add_bias_linear")):
        return None
    if value in ("GELU", "tanh GELU"):
        fused, on = "--no-bias-gelu-fusion", value == "tanh GELU"
        return FlagFix((), (*left_out, fused)) if on else FlagFix(((fused,),), left_out)
    found = flags(wanted, side) or FlagFix()
    return replace(found, left_out=(*left_out, *found.left_out))


def _activation_args(value: Any, _: ConfigSide) -> Settings | None:
    if changes := _changes(value):
        plain: Settings = {"swiglu": False, "quick_geglu": True, **changes}
        return plain if changes.keys() <= _CHANGES.keys() else None
    given = next((name for name, other in _SWITCHES.items() if other == value), None)
    if value in ("tanh GELU", "GELU"):
        given = "bias_gelu_fusion" if value == "tanh GELU" else None
    elif given is None:
        return None
    names = ("swiglu", "squared_relu", "openai_gelu", "bias_gelu_fusion")
    settings = {name: name == given for name in names}
    return settings if given is None or given in names else {**settings, given: True}


def _activation_entries(value: Any, side: ConfigSide) -> Settings | None:
    if changes := _changes(value):
        offset, limit = (changes.pop(name, None) for name in _CHANGES)
        if side.family != "gpt_oss" or offset != _CHANGES["glu_linear_offset"] or not limit:
            return None
        alpha = {"swiglu_alpha": changes["swiglu_alpha"]} if changes else {}
        return alpha if value == _CLAMPED else {"swiglu_limit": limit, **alpha}
    field = {
        "gpt2": "activation_function",
        "nemotron_h": "mlp_hidden_act",
        **dict.fromkeys(GEMMAS, "hidden_activation"),
    }.get(side.family or "", "hidden_act")
    word = value.removeprefix("gated ")
    if word == "GELU of either form" or (word == "tanh GELU" and side.family == "gpt2"):
        return {field: _DEFAULTS.get(side.family or "", "gelu_pytorch_tanh")}
    words = {"tanh GELU": "gelu_pytorch_tanh", **{w: n for n, w in reversed(_ACTIVATIONS.items())}}
    words["tanh GELU"] = "gelu_pytorch_tanh"
    name = words.get(word)
    return None if name is None else {field: name}


def _same_activation(a: Any, b: Any) -> bool:
    either = "GELU of either form"
    return bool(a == b) or (either in (a, b) and {a, b} <= {"GELU", "tanh GELU", either})


def _norm_megatron(side: ConfigSide) -> Stated | None:
    return default(stated("normalization"), "LayerNorm", MEGATRON)(side)


def _zero_centred(side: ConfigSide) -> Stated | None:
    names = ("apply_layernorm_1p", "layernorm_zero_centered_gamma")
    found = next((name for name in names if side.get(name)), None)
    if found is not None:
        return Stated(True, found, side.get(found))
    return default(switch(*names), False, MEGATRON)(side)


def _softmax_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = number("attention_multiplier")(side)
    if found is not None:
        return found
    if side.family in GEMMAS:
        raw = side.get("query_pre_attn_scalar") or 256
        name = "query_pre_attn_scalar"
        scale = "1/sqrt(d)" if equal(raw, side.get("head_dim") or 256) else 1 / math.sqrt(raw)
        return Stated(scale, name if side.has(name) else None, raw)
    if side.get("scale_attn_by_inverse_layer_idx"):
        name = "scale_attn_by_inverse_layer_idx"
        return Stated("1/sqrt(d)/layer", name, side.get(name))
    if side.get("scale_attn_weights") is False:
        return Stated("1", "scale_attn_weights", False)
    if side.has("scale_attn_weights"):
        return Stated("1/sqrt(d)", "scale_attn_weights", side.get("scale_attn_weights"))
    if side.family is None:
        return None
    return Stated("1/sqrt(d)", None, "1/sqrt(d)", f"every {side.family} model")


def _softmax_megatron(side: ConfigSide) -> Stated | None:
    return default(number("softmax_scale"), "1/sqrt(d)", MEGATRON)(side)


def _softmax_args(value: Any, _: ConfigSide) -> Settings | None:
    if is_number(value):
        return {"softmax_scale": value}
    return {} if value == "1/sqrt(d)" else None


def _softmax_entries(value: Any, side: ConfigSide) -> Settings | None:
    if side.family in GEMMAS:
        size = side.get("kv_channels")
        return {"query_pre_attn_scalar": whole(round(value**-2, 6)) if is_number(value) else size}
    return {} if value == "1/sqrt(d)" else None


def _epsilon_hf(side: ConfigSide) -> Stated | None:
    names = "rms_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "layer_norm_eps"
    found: Stated | None = number(*names)(side)
    if found is not None or side.family is None:
        return found
    epsilon = EPSILONS.get(side.family, 1e-6)
    return Stated(epsilon, None, epsilon, TRANSFORMERS)


LAYERS: tuple[ConfigField, ...] = (
    ConfigField(
        "Softmax scale",
        _softmax_hf,
        _softmax_megatron,
        "Attention is sharper or flatter in every layer.",
        _softmax_args,
        _softmax_entries,
        applies=lambda side: not is_latent(side),
        cannot="Megatron's args have no flag for it.",
        moves=moves.ATTEND,
    ),
    ConfigField(
        "Norm epsilon",
        _epsilon_hf,
        default(number("norm_epsilon", "layernorm_epsilon"), 1e-5, MEGATRON),
        "Every norm differs a little, and logits drift with depth.",
        sets("norm_epsilon"),
        sets_in(
            "rms_norm_eps",
            {
                "gpt2": "layer_norm_epsilon",
                "nemotron_h": "layer_norm_epsilon",
                "nemotron": "norm_eps",
                "gpt_neox": "layer_norm_eps",
            },
        ),
        moves=moves.NORMS,
    ),
    ConfigField(
        "Norm",
        by_family(dict.fromkeys(LAYER_NORM, "LayerNorm"), "RMSNorm"),
        _norm_megatron,
        "The mean is subtracted on one side only, so every layer's input differs.",
        sets("normalization"),
        sets_nothing,
        moves=moves.NORMS,
    ),
    ConfigField(
        "Zero-centred norms",
        by_family(dict.fromkeys(ZERO_CENTRED, True), False),
        _zero_centred,
        "Norm weights are off by one: they scale by w on one side and by 1 + w on the other.",
        sets("apply_layernorm_1p"),
        sets_nothing,
        moves=moves.NORMS,
    ),
    ConfigField(
        "Activation",
        _activation_hf,
        _activation_megatron,
        "The MLP applies another function, so every layer's output differs.",
        _activation_args,
        _activation_entries,
        equal=_same_activation,
        cannot="Megatron's args have no flag for it.",
        fix=_activation_fix,
        moves=moves.ACTIVATED,
    ),
    *BIASES,
    ConfigField(
        "Q/K norm",
        first(switch("use_qk_norm"), by_family(dict.fromkeys(QK_NORM, True), False)),
        where(
            lambda side: side.family == "minimax_m2",  # of Bridge's layer spec, with the arg off
            first(_NORM_TENSORS, switch("qk_layernorm")),
            first(switch("qk_layernorm"), _NORM_TENSORS),
        ),
        "Queries and keys are normalised on one side only.",
        sets("qk_layernorm"),
        only(frozenset({"glm4_moe"}), "use_qk_norm"),
        moves=moves.HEAD_NORMS,
    ),
    ConfigField(
        "Parallel residual",
        where(
            lambda side: side.family == "gpt_neox",
            default(switch("use_parallel_residual"), True, TRANSFORMERS),
            by_family({}, False),
        ),
        lambda _: Stated(False, None, False, "Megatron has no other"),
        "The MLP reads the output of attention on one side, its input on the other.",
        lambda on, _: None if on else {},
        only(frozenset({"gpt_neox"}), "use_parallel_residual"),
        off=False,
        cannot="Attention and MLP read the same input; Megatron's MLP reads attention's output.",
        moves=frozenset({"norm2"}),
    ),
    ConfigField(
        "Clipped queries, keys and values",
        where(
            lambda side: side.family == "olmoe",
            null_means(("clip_qkv",), number("clip_qkv"), None),
            by_family({}, None),
        ),
        lambda _: Stated(None, None, None, "Megatron has no limit"),
        "Queries, keys and values above the limit are cut off on one side only.",
        lambda limit, _: {} if limit is None else None,
        lambda _limit, _side: {},
        off=None,
        cannot="Megatron cuts none off.",
        moves=moves.PROJECTED,
    ),
)
