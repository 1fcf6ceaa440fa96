"""Rotary embeddings: base, rotated part of a head, and which channels are pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    default,
    first,
    is_number,
    number,
    sets,
    stated,
    whole,
)
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.scaling import SCALING
from ckptdiff.config.fields.scaling_kind import holder, scaling_kind
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.rope_holder import FULL, NEW

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Settings

_BASE_NAMES = {"gpt_neox": "rotary_emb_base"}  # in config.json; `rope_theta` elsewhere
# If config.json has none, 10000 otherwise; and what transformers 4 has instead.
BASES = {
    "mixtral": 1e6,
    "gemma3": 1e6,
    "gpt_oss": 150000.0,
    "qwen3_vl_moe": 500000.0,
    "smollm3": 2e6,
    "ernie4_5": 5e5,
    "minimax_m2": 5e6,
}
BASES_IN_4 = {**BASES, "qwen3_vl_moe": 5e6}
# The part of a head that is rotated, if config.json has no field for it; 1 otherwise.
PERCENTS = {
    **dict.fromkeys(("gpt_neox", "qwen3_next", "qwen3_5", "qwen3_5_moe"), 0.25),
    **dict.fromkeys(("nemotron", "glm4_moe"), 0.5),
    **dict.fromkeys(("phi3", "minimax_m2"), 1.0),
}


def _interleaving_hf(side: ConfigSide) -> Stated | None:
    if is_latent(side):
        return default(
            stated("rope_interleave", by=lambda on: "pairs" if on else "halves"),
            "pairs",
            TRANSFORMERS,
        )(side)
    if side.family is None:
        return None
    kind = _pairs_of(side)
    return Stated(kind, None, kind, f"every {side.family} model")


def _interleaving_megatron(side: ConfigSide) -> Stated | None:
    name = "rotary_interleaved"
    on = bool(side.get(name))
    if is_latent(side):
        # Latent attention moves pairs into halves itself, before the flag is used.
        value = "pairs, taken apart twice" if on else "pairs"
        return Stated(value, name if on else "multi_latent_attention", True)
    value = "pairs" if on else "halves"
    if side.has(name):
        return Stated(value, name, side.get(name))
    return Stated(value, None, value, MEGATRON)


def _interleaving_args(value: Any, side: ConfigSide) -> Settings | None:
    if is_latent(side):
        return {"rotary_interleaved": False} if value == "pairs" else None
    return {"rotary_interleaved": value == "pairs"}


def _interleaving_entries(value: Any, side: ConfigSide) -> Settings | None:
    if is_latent(side):
        return {"rope_interleave": value == "pairs"}
    return {} if value == _pairs_of(side) else None


def _pairs_of(side: ConfigSide) -> str:
    """Return which channels are pairs in the family's class, which no field says."""
    return "pairs" if side.family == "ernie4_5" else "halves"


def _percent_megatron(side: ConfigSide) -> Stated | None:
    """Read rotary_percent, which YarnRotaryEmbedding does not: it rotates whole heads."""
    if scaling_kind(side) == "yarn":
        return Stated(1.0, None, 1.0, "YaRN, which rotates whole heads")
    return default(number("rotary_percent"), 1.0, MEGATRON)(side)


def _percent_args(value: Any, side: ConfigSide) -> Settings | None:
    is_unread = side.kind == "megatron" and scaling_kind(side) == "yarn"
    return None if is_unread else {"rotary_percent": value}


def _percent_entries(value: Any, side: ConfigSide) -> Settings | None:
    if side.family == "minimax_m2" and value == 1:
        return {}
    if side.family in PERCENTS:
        return {"rotary_pct" if side.family == "gpt_neox" else "partial_rotary_factor": value}
    return {} if value == 1 else None


def default_base(side: ConfigSide, *, release: int = 5) -> float | None:
    """Return the base that a release of transformers takes if config.json has none."""
    if side.family is None:
        return None
    if release == 5:
        return BASES.get(side.family, 10000.0)
    return BASES_IN_4.get(side.family, 10000.0)


def _base_default(side: ConfigSide) -> Stated | None:
    base = default_base(side)
    return None if base is None else Stated(base, None, base, TRANSFORMERS)


def _base_hf(side: ConfigSide) -> Stated | None:
    """Read the base as transformers 5 does: inside the object that it reads, then beside it."""
    inside = f"{holder(side)}.rope_theta"
    names = (inside, f"{NEW}.{FULL}.rope_theta", "rope_theta", "rotary_emb_base")
    return first(number(*names), _base_default)(side)


def _percent_hf(side: ConfigSide) -> Stated | None:
    if side.family is not None and side.family not in PERCENTS and scaling_kind(side) == "none":
        return _percent_default(side)  # without scaling, the other classes rotate whole heads
    inside = f"{holder(side)}.partial_rotary_factor"
    names = inside, "partial_rotary_factor", "rotary_pct"
    return first(number(*names), _rotated_channels, _percent_default)(side)


def _rotated_channels(side: ConfigSide) -> Stated | None:
    """Read MiniMax-M2's number of rotated channels of a head."""
    channels, whole_head = side.get("rotary_dim"), side.get("head_dim")
    if side.family != "minimax_m2" or not is_number(channels) or not is_number(whole_head):
        return None
    return Stated(channels / whole_head, "rotary_dim", channels) if whole_head else None


def _percent_default(side: ConfigSide) -> Stated | None:
    if side.family is None:
        return None
    percent = PERCENTS.get(side.family, 1.0)
    return Stated(percent, None, percent, TRANSFORMERS)


ROPE: tuple[ConfigField, ...] = (
    ConfigField(
        "RoPE base",
        _base_hf,
        default(number("rotary_base"), 10000, MEGATRON),
        "The weights can be equal while every logit differs, more so in longer sequences.",
        sets("rotary_base", whole),
        lambda base, side: {_BASE_NAMES.get(side.family or "", "rope_theta"): float(base)},
        applies=is_rotary,
        moves=moves.ROTATED,
    ),
    *SCALING,
    ConfigField(
        "Rotated part of a head",
        _percent_hf,
        _percent_megatron,
        "Another number of channels is rotated, so attention scores are wrong in every layer.",
        _percent_args,
        _percent_entries,
        applies=lambda side: is_rotary(side) and not is_latent(side),
        moves=moves.ROTATED,
    ),
    ConfigField(
        "Rotary pairs",
        _interleaving_hf,
        _interleaving_megatron,
        "Channels are rotated in other pairs, so attention scores are wrong in every layer.",
        _interleaving_args,
        _interleaving_entries,
        applies=is_rotary,
        cannot="Megatron's latent attention always rotates pairs.",
        moves=moves.ROTATED,
    ),
)
