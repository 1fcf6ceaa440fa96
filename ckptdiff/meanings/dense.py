"""Sizes, norms, activation, biases, vocabulary and positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ckptdiff.meanings.base import (
    MEGATRON,
    TRANSFORMERS,
    Meaning,
    Reading,
    Side,
    by_family,
    default,
    first,
    flag,
    from_tensors,
    is_number,
    number,
    stated,
    switch,
    switch_flag,
    where,
)
from ckptdiff.meanings.shape import SHAPES, has_dense_layers, latent

WITHOUT_GATE = frozenset({"gpt2", "nemotron"})
EPSILONS = {"gpt2": 1e-5, "mixtral": 1e-5, "nemotron": 1e-5}  # where config.json says none


def _ffn_hf(side: Side) -> Reading | None:
    found: Reading | None = number("intermediate_size", "n_inner")(side)
    hidden = number("hidden_size", "n_embd")(side)
    if found is None and hidden is not None and side.family == "gpt2":
        return Reading(4 * hidden.value, None, 4 * hidden.value, "4 times the hidden size")
    return found


def _heads(side: Side) -> Reading | None:
    found: Reading | None = number("num_attention_heads", "n_head")(side)
    return found


def _groups_hf(side: Side) -> Reading | None:
    heads = _heads(side)
    other = None if heads is None else heads.value
    found: Reading | None = number("num_key_value_heads")(side)
    return found or (other and Reading(other, None, other, "a group for each head"))


def _groups_megatron(side: Side) -> Reading | None:
    # num_query_groups is 1 by default; it counts only beside group_query_attention.
    if side.get("group_query_attention") or not side.has("group_query_attention"):
        found: Reading | None = number("num_query_groups")(side)
        if found is not None:
            return found
    heads = _heads(side)
    return heads and Reading(heads.value, None, heads.value, "group_query_attention is off")


def _head_size(side: Side) -> Reading | None:
    found: Reading | None = number("head_dim" if side.kind == "hf" else "kv_channels")(side)
    if found is not None:
        return found
    hidden, heads = number("hidden_size", "n_embd")(side), _heads(side)
    if hidden is None or heads is None:
        return None
    size = hidden.value // heads.value
    return Reading(size, None, size, "hidden size / heads")


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


_SWITCHES = {
    "swiglu": "gated SiLU",
    "quick_geglu": "gated quick GELU",
    "squared_relu": "squared ReLU",
    "openai_gelu": "tanh GELU",
}


def _activation_hf(side: Side) -> Reading | None:
    if side.family is None and side.kind == "hf":
        gated = from_tensors(("gate_proj.weight", "w1.weight"), "gate")(side)
    else:
        gated = Reading(side.family not in WITHOUT_GATE)
    names = ("hidden_act", "activation_function", "hidden_activation")
    other = {"gpt2": "gelu_new", "nemotron": "relu2"}.get(side.family or "", "silu")
    found = stated(*names)(side) or Reading(other, None, other, TRANSFORMERS)
    word = _ACTIVATIONS.get(found.value, str(found.value))
    gate = "gated " if gated is not None and gated.value else ""
    return Reading(gate + word, found.name, found.raw, found.source)


def _activation_megatron(side: Side) -> Reading | None:
    for name, value in _SWITCHES.items():
        if side.get(name):
            return Reading(value, name, side.get(name))
    if not side.has("swiglu"):
        return None
    # The fused kernel of GELU with a bias is the tanh form, whatever the unfused one is.
    if side.get("bias_gelu_fusion") and side.get("add_bias_linear"):
        return Reading("tanh GELU", "bias_gelu_fusion", side.get("bias_gelu_fusion"))
    if not side.has("bias_gelu_fusion"):
        return Reading("GELU of either form", "swiglu", side.get("swiglu"))
    return Reading("GELU", "swiglu", side.get("swiglu"))


def _activation_fix(value: Any, side: Side) -> str | None:
    given = [name for name, other in _SWITCHES.items() if side.get(name) and other != value]
    parts = [f"leave out --{name.replace('_', '-')}" for name in given]
    wanted = next((name for name, other in _SWITCHES.items() if other == value), None)
    if wanted is not None:
        parts.append(f"--{wanted.replace('_', '-')}")
    elif value == "GELU":
        parts.append("--no-bias-gelu-fusion")
    else:
        return None
    return ", ".join(parts)


def _same_activation(a: Any, b: Any) -> bool:
    either = "GELU of either form"
    return bool(a == b) or (either in (a, b) and {a, b} <= {"GELU", "tanh GELU", either})


def _tied_hf(side: Side) -> Reading | None:
    found: Reading | None = switch("tie_word_embeddings")(side)
    if found is not None or side.family is None:
        return found
    return Reading(side.tied_by_default, None, side.tied_by_default, TRANSFORMERS)


def _tied_megatron(side: Side) -> Reading | None:
    found = switch("untie_embeddings_and_output_weights", inverted=True)(side)
    if found is not None:
        return found
    head = from_tensors(("lm_head.weight",), "head")(side)
    return None if head is None else replace(head, value=not head.value, raw=not head.value)


def _norm_megatron(side: Side) -> Reading | None:
    return default(stated("normalization"), "LayerNorm", MEGATRON)(side)


def _zero_centred(side: Side) -> Reading | None:
    names = ("apply_layernorm_1p", "layernorm_zero_centered_gamma")
    found = next((name for name in names if side.get(name)), None)
    if found is not None:
        return Reading(True, found, side.get(found))
    return default(switch(*names), False, MEGATRON)(side)


def _qkv_bias_megatron(side: Side) -> Reading | None:
    # Each of the two gives the projection a bias.
    found = next((n for n in ("add_qkv_bias", "add_bias_linear") if side.get(n)), None)
    if found is not None:
        return Reading(True, found, side.get(found))
    tensors = from_tensors(("q_proj.bias", "c_attn.bias"), "QKV bias")
    if side.has("add_bias_linear"):
        return default(switch("add_qkv_bias"), False, MEGATRON)(side)
    return first(switch("add_qkv_bias"), tensors)(side)


def _softmax_hf(side: Side) -> Reading | None:
    found: Reading | None = number("attention_multiplier")(side)
    if found is not None:
        return found
    if side.get("scale_attn_by_inverse_layer_idx"):
        name = "scale_attn_by_inverse_layer_idx"
        return Reading("1/sqrt(d)/layer", name, side.get(name))
    if side.get("scale_attn_weights") is False:
        return Reading("1", "scale_attn_weights", False)
    if side.has("scale_attn_weights"):
        return Reading("1/sqrt(d)", "scale_attn_weights", side.get("scale_attn_weights"))
    if side.family is None:
        return None
    return Reading("1/sqrt(d)", None, "1/sqrt(d)", f"every {side.family} model")


def _softmax_megatron(side: Side) -> Reading | None:
    return default(number("softmax_scale"), "1/sqrt(d)", MEGATRON)(side)


def _padding(a: Side, b: Side) -> str | None:
    """Say how many rows of a Megatron vocabulary are padding, if none is lacking."""
    padded = [s.get("padded_vocab_size") for s in (a, b) if s.kind == "megatron"]
    if len(padded) == 2 and None not in padded:
        return "vocabularies are padded for another number of ranks"
    rows = [s.get("vocab_size") for s in (a, b) if s.kind == "hf"]
    if len(padded) == len(rows) == 1 and padded[0] is not None and padded[0] >= rows[0]:
        return f"{padded[0] - rows[0]} rows of padding"
    return None


def _epsilon_hf(side: Side) -> Reading | None:
    names = "rms_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "layer_norm_eps"
    found: Reading | None = number(*names)(side)
    if found is not None or side.family is None:
        return found
    epsilon = EPSILONS.get(side.family, 1e-6)
    return Reading(epsilon, None, epsilon, TRANSFORMERS)


DENSE: tuple[Meaning, ...] = (
    Meaning(
        "Layers",
        number("num_hidden_layers", "n_layer"),
        number("num_layers"),
        "One side has layers that the other lacks.",
        flag("--num-layers"),
    ),
    Meaning(
        "Hidden size",
        number("hidden_size", "n_embd"),
        number("hidden_size"),
        SHAPES,
        flag("--hidden-size"),
    ),
    Meaning(
        "FFN size",
        _ffn_hf,
        number("ffn_hidden_size"),
        SHAPES,
        flag("--ffn-hidden-size"),
        applies=has_dense_layers,
    ),
    Meaning("Attention heads", _heads, _heads, SHAPES, flag("--num-attention-heads")),
    Meaning(
        "Query groups",
        _groups_hf,
        _groups_megatron,
        "Queries read other keys and values, or the tensors have other shapes.",
        flag("--group-query-attention --num-query-groups"),
        applies=lambda side: not latent(side),
    ),
    Meaning(
        "Head dimension",
        _head_size,
        _head_size,
        "Rows are cut into other heads, so attention mixes channels of different heads.",
        flag("--kv-channels"),
        applies=lambda side: not latent(side),
    ),
    Meaning(
        "Softmax scale",
        _softmax_hf,
        _softmax_megatron,
        "Attention is sharper or flatter in every layer.",
        lambda value, _: f"--softmax-scale {value}" if is_number(value) else None,
        applies=lambda side: not latent(side),
        cannot="Megatron's args have no flag for it.",
    ),
    Meaning(
        "Norm epsilon",
        _epsilon_hf,
        default(number("norm_epsilon", "layernorm_epsilon"), 1e-5, MEGATRON),
        "Every norm differs a little, and logits drift with depth.",
        flag("--norm-epsilon"),
    ),
    Meaning(
        "Norm",
        by_family({"gpt2": "LayerNorm", "nemotron": "LayerNorm"}, "RMSNorm"),
        _norm_megatron,
        "The mean is subtracted on one side only, so every layer's input differs.",
        flag("--normalization"),
    ),
    Meaning(
        "Zero-centred norms",
        by_family({"nemotron": True}, False),
        _zero_centred,
        "Norm weights are off by one: they scale by w on one side and by 1 + w on the other.",
        switch_flag("--apply-layernorm-1p"),
    ),
    Meaning(
        "Activation",
        _activation_hf,
        _activation_megatron,
        "The MLP applies another function, so every layer's output differs.",
        _activation_fix,
        equal=_same_activation,
        cannot="Megatron's args have no flag for it.",
    ),
    Meaning(
        "Tied embeddings",
        _tied_hf,
        _tied_megatron,
        "The head is the embedding on one side and a matrix of its own on the other.",
        switch_flag("--untie-embeddings-and-output-weights", inverted=True),
    ),
    Meaning(
        "Linear biases",
        where(
            lambda side: side.family == "gpt2",
            by_family({}, True),
            default(switch("mlp_bias", "use_bias"), False, TRANSFORMERS),
        ),
        first(
            switch("add_bias_linear"),
            from_tensors(("mlp.c_fc.bias", "up_proj.bias", "o_proj.bias"), "linear bias"),
        ),
        "One side adds biases that the other does not have.",
        switch_flag("--disable-bias-linear", inverted=True),
    ),
    Meaning(
        "QKV bias",
        where(
            lambda side: side.family in ("gpt2", "qwen2", "qwen2_moe"),
            first(
                where(lambda side: side.family == "qwen2_moe", switch("qkv_bias"), lambda _: None),
                by_family({}, True),
            ),
            default(switch("attention_bias"), False, TRANSFORMERS),
        ),
        _qkv_bias_megatron,
        "One side adds a bias to queries, keys and values that the other does not have.",
        switch_flag("--add-qkv-bias"),
    ),
    Meaning(
        "Q/K norm",
        by_family({"qwen3": True, "qwen3_moe": True, "deepseek": True}, False),
        first(
            switch("qk_layernorm"), from_tensors(("q_norm.weight", "a_layernorm.weight"), "norm")
        ),
        "Queries and keys are normalised on one side only.",
        switch_flag("--qk-layernorm"),
    ),
    Meaning(
        "Vocabulary",
        number("vocab_size"),
        number("padded_vocab_size", "vocab_size"),
        "Tokens above the smaller vocabulary have no embedding and no logit on that side.",
        flag("--vocab-size"),
        harmless=_padding,
    ),
)
