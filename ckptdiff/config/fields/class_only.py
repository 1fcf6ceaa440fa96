"""Settings that classes of transformers read and Megatron's args have no field for.

What a class does not read it computes without: with `neutral`, and so does Megatron. Which class
reads what is in `keys_read`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import TRANSFORMERS, ConfigField, ConfigSide, Stated, null_means
from ckptdiff.config.fields.base import equal as same
from ckptdiff.config.keys_read import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.config.fields.base import Reader, Setter, Settings

_NO_FIELD = "Megatron's args have no field for it."


class _Key(NamedTuple):
    """A key of config.json."""

    key: str
    meaning: str  # the name of its line
    neutral: Any  # the value with which nothing is done
    consequence: str  # of a conflict
    defaults: Mapping[str, Any] = {}  # by model type, where a class has another default
    moves: frozenset[str] = moves.ALL
    cannot: str = _NO_FIELD
    is_in_args: bool = False  # classes beside Megatron-LM keep it in its args, by the same name


_SCALED = "{} scaled by another factor."
_CAPS = "{} have another cap, or none, on one side."
_KEYS = (
    _Key(
        "is_causal",
        "Causal attention",
        True,
        "Tokens attend to later ones on one side only.",
        moves=moves.ATTEND,
    ),
    _Key(
        "use_bidirectional_attention",
        "Attention to later tokens",
        False,
        "Tokens attend to later ones on one side only.",
        moves=moves.ATTEND,
    ),
    _Key(
        "attn_logit_softcapping",
        "Cap of attention scores",
        None,
        _CAPS.format("Attention scores"),
        {"gemma2": 50.0},
        moves=moves.ATTEND,
        cannot="Megatron's args have no field for a cap of attention scores.",
        is_in_args=True,
    ),
    _Key(
        "final_logit_softcapping",
        "Cap of logits",
        None,
        _CAPS.format("Logits"),
        {"gemma2": 30.0},
        moves=moves.HEAD,
        cannot="Megatron's args have no field for a cap of logits.",
        is_in_args=True,
    ),
    _Key(
        "embedding_multiplier",
        "Scale of embeddings",
        1.0,
        _SCALED.format("Embeddings are"),
        moves=moves.EMBED,
    ),
    _Key(
        "scale_emb",
        "Factor of embeddings",
        1.0,
        _SCALED.format("Embeddings are"),
        {"minicpm3": 12},
        moves=moves.EMBED,
    ),
    _Key(
        "residual_multiplier",
        "Scale of residual branches",
        1.0,
        _SCALED.format("What a layer adds to the residual stream is"),
    ),
    _Key(
        "scale_depth",
        "Depth scale of residual branches",
        None,
        _SCALED.format("What a layer adds to the residual stream is"),
        {"minicpm3": 1.4},
    ),
    _Key(
        "logits_scaling", "Divisor of logits", 1.0, _SCALED.format("Logits are"), moves=moves.HEAD
    ),
    _Key(
        "logit_scale",
        "Scale of logits",
        1.0,
        _SCALED.format("Logits are"),
        {"cohere": 0.0625, "cohere2": 0.0625},
        moves=moves.HEAD,
    ),
    _Key(
        "lm_head_multiplier",
        "Scale of the head",
        1.0,
        _SCALED.format("Logits are"),
        moves=moves.HEAD,
    ),
    _Key(
        "dim_model_base",
        "Width that logits are scaled to",
        None,
        _SCALED.format("Logits are"),
        {"minicpm3": 256},
        moves=moves.HEAD,
    ),
    _Key("key_multiplier", "Scale of keys", 1.0, _SCALED.format("Keys are"), moves=moves.PROJECTED),
    _Key(
        "attention_in_multiplier",
        "Scale of attention's input",
        1.0,
        _SCALED.format("What attention reads is"),
    ),
    _Key(
        "attention_out_multiplier",
        "Scale of attention's output",
        1.0,
        _SCALED.format("The attention output is"),
    ),
    _Key(
        "ssm_in_multiplier",
        "Scale of Mamba's input",
        1.0,
        _SCALED.format("What Mamba layers read is"),
    ),
    _Key(
        "ssm_out_multiplier",
        "Scale of Mamba's output",
        1.0,
        _SCALED.format("What Mamba layers put out is"),
    ),
    _Key(
        "ssm_multipliers", "Scales inside Mamba", None, _SCALED.format("What Mamba layers hold is")
    ),
    _Key("mlp_multipliers", "Scales of the MLP", None, _SCALED.format("The MLP is")),
)


def _hf(one: _Key) -> Reader:
    def read(side: ConfigSide) -> Stated:
        model_type = side.get("model_type")
        if not reads(model_type, one.key):
            return Stated(one.neutral, None, one.neutral, f"every {model_type} model")
        if side.has(one.key):
            raw = side.get(one.key)
            is_switch = isinstance(one.neutral, bool)  # null is false
            value = bool(raw) if is_switch else one.neutral if raw is None else raw
            return Stated(value, one.key, raw)
        value = one.defaults.get(model_type, one.neutral)
        return Stated(value, None, value, TRANSFORMERS)

    return read


def _megatron(one: _Key) -> Reader:
    if one.is_in_args:
        none = Stated(None, None, None, "Megatron-LM has none")
        in_args = null_means((one.key,), lambda s: _given(s, one.key), None)
        return lambda side: in_args(side) or (None if _may_have(side, one) else none)
    return lambda _: Stated(one.neutral, None, one.neutral, "Megatron has no other")


def _given(side: ConfigSide, key: str) -> Stated | None:
    raw = side.get(key)
    return None if raw is None else Stated(raw, key, raw)


def _may_have(side: ConfigSide, one: _Key) -> bool:
    """Return whether models of a Megatron side's family usually have it, though no arg says it."""
    return side.family is None or side.family in one.defaults


def _args(one: _Key) -> Setter:
    def settings(value: Any, _: ConfigSide) -> Settings | None:
        return {} if same(value, one.neutral) else None

    return settings


def _entries(one: _Key) -> Setter:
    def settings(value: Any, side: ConfigSide) -> Settings | None:
        if side.kind == "hf" and reads(side.get("model_type"), one.key):
            return {one.key: value}
        return {} if same(value, one.neutral) else None

    return settings


CLASS_ONLY: tuple[ConfigField, ...] = tuple(
    ConfigField(
        one.meaning,
        _hf(one),
        _megatron(one),
        one.consequence,
        _args(one),
        _entries(one),
        off=one.neutral,
        cannot=one.cannot,
        moves=one.moves,
    )
    for one in _KEYS
)
