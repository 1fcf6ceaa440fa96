"""Sizes, heads and the vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    first,
    from_tensors,
    number,
    sets,
    sets_in,
    sets_not,
    switch,
)
from ckptdiff.config.fields.shape import SHAPES, has_dense_layers, is_latent
from ckptdiff.formats.run_config import TIED, UNTIED

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Settings


def _layers_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = number("num_hidden_layers", "n_layer")(side)
    kinds = side.get("layers_block_type")
    if found is None and isinstance(kinds, list):
        return Stated(len(kinds), "layers_block_type", len(kinds))
    return found


def _ffn_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = number("intermediate_size", "n_inner")(side)
    hidden = number("hidden_size", "n_embd")(side)
    if found is None and hidden is not None and side.family == "gpt2":
        return Stated(4 * hidden.value, None, 4 * hidden.value, "4 times the hidden size")
    return found


def _heads(side: ConfigSide) -> Stated | None:
    found: Stated | None = number("num_attention_heads", "n_head")(side)
    return found


def _groups_hf(side: ConfigSide) -> Stated | None:
    heads = _heads(side)
    other = None if heads is None else heads.value
    found: Stated | None = number("num_key_value_heads")(side)
    return found or (other and Stated(other, None, other, "a group for each head"))


def _groups_megatron(side: ConfigSide) -> Stated | None:
    # num_query_groups is 1 by default; it counts only if group_query_attention is set.
    if side.get("group_query_attention") or not side.has("group_query_attention"):
        found: Stated | None = number("num_query_groups")(side)
        if found is not None:
            return found
    heads = _heads(side)
    return heads and Stated(heads.value, None, heads.value, "group_query_attention is off")


def _groups_args(groups: Any, side: ConfigSide) -> Settings:
    heads = _heads(side)
    if is_latent(side) or (heads is not None and heads.value == groups):
        return {"group_query_attention": False}
    return {"group_query_attention": True, "num_query_groups": groups}


def _groups_entries(groups: Any, side: ConfigSide) -> Settings:
    if side.family in ("gpt2", "gpt_neox"):
        return {}  # a group for each head
    heads = _heads(side)
    return {"num_key_value_heads": heads.value if is_latent(side) and heads else groups}


def _head_size(side: ConfigSide) -> Stated | None:
    found: Stated | None = number("head_dim" if side.kind == "hf" else "kv_channels")(side)
    if found is not None:
        return found
    hidden, heads = number("hidden_size", "n_embd")(side), _heads(side)
    if hidden is None or heads is None:
        return None
    size = hidden.value // heads.value
    return Stated(size, None, size, "hidden size / heads")


def _tied_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = switch("tie_word_embeddings")(side)
    if found is not None or side.family is None:
        return found
    return Stated(side.tied_by_default, None, side.tied_by_default, TRANSFORMERS)


def _tied_megatron(side: ConfigSide) -> Stated | None:
    found = first(switch(TIED), switch(UNTIED, inverted=True))(side)
    if found is not None:
        return found
    head = from_tensors(("lm_head.weight",), "head")(side)
    return None if head is None else replace(head, value=not head.value, raw=not head.value)


def _padding(a: ConfigSide, b: ConfigSide) -> str | None:
    """Return, in words, how many rows of a Megatron vocabulary are padding, if none is missing."""
    padded = [s.get("padded_vocab_size") for s in (a, b) if s.kind == "megatron"]
    if len(padded) == 2 and None not in padded:
        return "vocabularies are padded for another number of ranks"
    rows = [s.get("vocab_size") for s in (a, b) if s.kind == "hf"]
    if len(padded) == len(rows) == 1 and padded[0] is not None and padded[0] >= rows[0]:
        return f"{padded[0] - rows[0]} rows of padding"
    return None


DENSE: tuple[ConfigField, ...] = (
    ConfigField(
        "Layers",
        _layers_hf,
        number("num_layers"),
        "One side has layers that the other lacks.",
        sets("num_layers"),
        sets_in("num_hidden_layers", {"gpt2": "n_layer", "nemotron_h": ""}),
        moves=moves.ALL,
    ),
    ConfigField(
        "Hidden size",
        number("hidden_size", "n_embd"),
        number("hidden_size"),
        SHAPES,
        sets("hidden_size"),
        sets_in("hidden_size", {"gpt2": "n_embd"}),
        moves=moves.ALL,
    ),
    ConfigField(
        "FFN size",
        _ffn_hf,
        number("ffn_hidden_size"),
        SHAPES,
        sets("ffn_hidden_size"),
        sets_in("intermediate_size", {"gpt2": "n_inner"}),
        applies=has_dense_layers,
        always=True,
        moves=moves.MLP,
    ),
    ConfigField(
        "Attention heads",
        _heads,
        _heads,
        SHAPES,
        sets("num_attention_heads"),
        sets_in("num_attention_heads", {"gpt2": "n_head"}),
        moves=moves.ATTENTION,
    ),
    ConfigField(
        "Query groups",
        _groups_hf,
        _groups_megatron,
        "Queries read other keys and values, or the tensors have other shapes.",
        _groups_args,
        _groups_entries,
        applies=lambda side: not is_latent(side),
        always=True,
        moves=moves.ATTENTION,
    ),
    ConfigField(
        "Head dimension",
        _head_size,
        _head_size,
        "Rows are cut into other heads, so attention mixes channels of different heads.",
        sets("kv_channels"),
        sets_in("head_dim", {"gpt2": "", "gpt_neox": ""}),
        applies=lambda side: not is_latent(side),
        moves=moves.ATTENTION,
    ),
    ConfigField(
        "Tied embeddings",
        _tied_hf,
        _tied_megatron,
        "The head is the embedding on one side and a matrix of its own on the other.",
        sets_not(UNTIED),
        sets("tie_word_embeddings"),
        moves=moves.HEAD,
    ),
    ConfigField(
        "Vocabulary",
        number("vocab_size"),
        number("padded_vocab_size", "vocab_size"),
        "Tokens above the smaller vocabulary have no embedding and no logit on that side.",
        sets("vocab_size"),
        sets("vocab_size"),
        harmless=_padding,
        moves=moves.NOTHING,
    ),
)
