"""How rotary embeddings are scaled for long sequences: linear, llama3's, and YaRN."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    default,
    equal,
    number,
    sets,
    sets_nothing,
    show,
    switch,
    whole,
)
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.rope_holder import holder_name, unscaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.config.fields.base import Reader, Setter, Settings

# Megatron's apply_rope_scaling takes the factor only, and hard-codes these. What builds the model
# does not hand it the factor of the args: LLAMA3 counts.
LLAMA3 = 8
FIXED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_OF_CLASS = {"original_max_position_embeddings": "old_context_len"}
INTERPOLATION = "--rotary-seq-len-interpolation-factor"
YARN = {"beta_fast": 32.0, "beta_slow": 1.0}
LATENT_FACTOR = 40  # of MLATransformerConfig, whose scaling is YaRN unless it is told otherwise
SCALES = {"mscale": 1.0, "mscale_all_dim": 0.0}
NO_LATENT_FLAG = (
    "Megatron-LM has no flag for it beside latent attention: 4096, 32 and 1 count for "
    "original_max_position_embeddings, beta_fast and beta_slow."
)
_ROUNDING = "yarn_correction_range_round_to_int"
CANNOT = (
    "Megatron cannot represent it: it scales as Llama 3.1 does, with a factor of 8, and 1, 4 and "
    "8192 for low_freq_factor, high_freq_factor and original_max_position_embeddings."
)


def holder(side: ConfigSide) -> str:
    """Return the name of the object that holds a config.json's scaling."""
    return holder_name(side.fields)


def _kind_hf(side: ConfigSide) -> Stated | None:
    name = holder(side)
    for key in ("rope_type", "type"):
        raw = side.get(f"{name}.{key}")
        if raw is not None:
            value = "none" if raw == "default" or _is_one(side, name, raw) else raw
            return Stated(value, f"{name}.{key}", raw)
    if side.has(name):
        return Stated("none", name, None)
    return Stated("none", None, "none", TRANSFORMERS)


def _is_one(side: ConfigSide, name: str, kind: Any) -> bool:
    return kind in ("linear", "yarn", "dynamic") and side.get(f"{name}.factor") == 1


def _kind_megatron(side: ConfigSide) -> Stated | None:
    if is_latent(side):
        kind, factor = side.get("rope_type") or "yarn", side.get("rotary_scaling_factor")
        if kind != "yarn":
            return Stated("none", "rope_type", kind)
        if factor == 1:
            return Stated("none", "rotary_scaling_factor", factor)
        if side.get("rope_type"):
            return Stated("yarn", "rope_type", kind)
        if factor is not None:
            return Stated("yarn", "rotary_scaling_factor", factor)
        return Stated("yarn", "rotary_scaling_factor", f"{LATENT_FACTOR} by default", MEGATRON)
    if side.get("position_embedding_type") == "yarn":
        return Stated("yarn", "position_embedding_type", "yarn")
    if side.get("use_rope_scaling"):
        return Stated("llama3", "use_rope_scaling", side.get("use_rope_scaling"))
    factor = side.get("rotary_seq_len_interpolation_factor")
    if factor not in (None, 1):
        return Stated("linear", "rotary_seq_len_interpolation_factor", factor)
    if side.has("use_rope_scaling"):
        return Stated("none", "use_rope_scaling", side.get("use_rope_scaling"))
    return Stated("none", None, "none", MEGATRON)


def scaling_kind(side: ConfigSide) -> str:
    found = _kind_hf(side) if side.kind == "hf" else _kind_megatron(side)
    return "none" if found is None else str(found.value)


def scaled(*kinds: str) -> Callable[[ConfigSide], bool]:
    """Return a condition: does a side scale its rotary embeddings in one of these ways?"""
    return lambda side: is_rotary(side) and scaling_kind(side) in kinds


def _whole_scaling_hf(side: ConfigSide) -> Stated | None:
    """Read the kind of scaling; its value also holds the side, which a flag needs."""
    found = _kind_hf(side)
    return found and Stated(_Kind(found.value, side), found.name, found.raw, found.source)


def _whole_scaling_megatron(side: ConfigSide) -> Stated | None:
    found = _kind_megatron(side)
    return found and Stated(_Kind(found.value, side), found.name, found.raw, found.source)


class _Kind(str):
    """A kind of scaling, and the side that has it."""

    __slots__ = ("side",)
    side: ConfigSide

    def __new__(cls, kind: Any, side: ConfigSide) -> _Kind:
        made = str.__new__(cls, kind)
        made.side = side
        return made


def _scaling_fix(value: Any, side: ConfigSide) -> str | None:
    if value == "none":
        if is_latent(side):  # without the flag, its own default of 40 counts
            rope = "--rope-type rope " if side.has("rope_type") else ""
            return f"{rope}--rotary-scaling-factor 1"
        if scaling_kind(side) == "yarn":
            return "--position-embedding-type rope"
        flags = {"llama3": "--use-rope-scaling", "linear": INTERPOLATION}
        return f"leave out {flags[scaling_kind(side)]}"
    factor = FACTOR.read(value.side)
    if factor is None:
        return None
    match str(value):
        case "llama3" if is_llama31(value.side):
            return "--use-rope-scaling"
        case "linear":
            return f"{INTERPOLATION} {show(factor.value)}"
        case "yarn":
            kind = "--rope-type" if is_latent(value.side) else "--position-embedding-type"
            return f"{kind} yarn --rotary-scaling-factor {show(factor.value)}"
    return None


def is_llama31(side: ConfigSide) -> bool:
    """Return whether llama3's scaling has the numbers of Llama 3.1, the only ones of Megatron."""
    factor = FACTOR.read(side)
    fixed = all(_fixed(side, key) == FIXED[key] for key in FIXED)
    return fixed and factor is not None and bool(factor.value == LLAMA3)


def _fixed(side: ConfigSide, key: str) -> Any:
    found = _llama3(key)[0 if side.kind == "hf" else 1](side)
    return None if found is None else found.value


def _from_holder(key: str) -> Reader:
    """Read a field of a config.json's scaling."""
    return lambda side: number(f"{holder(side)}.{key}")(side)


def _factor_megatron(side: ConfigSide) -> Stated | None:
    if scaling_kind(side) == "llama3":
        return default(number("rope_scaling_factor"), 8.0, MEGATRON)(side)
    if scaling_kind(side) == "yarn" and is_latent(side):
        return default(number("rotary_scaling_factor"), LATENT_FACTOR, MEGATRON)(side)
    if scaling_kind(side) == "yarn":
        return number("yarn_rotary_scaling_factor", "rotary_scaling_factor")(side)
    return number("rotary_seq_len_interpolation_factor")(side)


def _llama3(key: str) -> tuple[Reader, Reader]:
    fixed, of_class = FIXED[key], _OF_CLASS.get(key, key)

    def megatron(side: ConfigSide) -> Stated | None:
        if side.yaml is not None and (found := number(of_class)(side)):
            return found  # a class of NeMo or Megatron-Bridge that scales by itself
        return Stated(fixed, None, fixed, "Megatron hard-codes it")

    return _from_holder(key), megatron


def _original_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = _from_holder("original_max_position_embeddings")(side)
    if found is not None:
        return found
    found = number("max_position_embeddings")(side)
    return found and Stated(found.value, found.name, found.raw, "no field for the original length")


def _original_megatron(side: ConfigSide) -> Stated | None:
    if not is_latent(side):
        return number("yarn_original_max_position_embeddings")(side)
    return number("original_max_position_embeddings", "max_position_embeddings")(side)


def _yarn(key: str) -> tuple[Reader, Reader]:
    def megatron(side: ConfigSide) -> Stated | None:
        names = (key,) if is_latent(side) else (f"yarn_{key}",)
        return default(number(*names), YARN[key], MEGATRON)(side)

    return default(_from_holder(key), YARN[key], TRANSFORMERS), megatron


def _scale(key: str, other: float) -> tuple[Reader, Reader]:
    def huggingface(side: ConfigSide) -> Stated | None:
        stated = {name: _from_holder(name)(side) for name in SCALES}
        found = stated[key]
        is_read = all(one is not None and one.value for one in stated.values())
        if found is None or is_read or (key == "mscale_all_dim" and is_latent(side)):
            return default(lambda _: found, other, TRANSFORMERS)(side)
        return Stated(other, None, other, f"transformers reads {' and '.join(SCALES)} together")

    def megatron(side: ConfigSide) -> Stated | None:
        names = (key,) if is_latent(side) else (f"yarn_{key}", key)
        return number(*names)(side)

    return huggingface, megatron


def _rounding_hf(side: ConfigSide) -> Stated | None:
    return default(switch(f"{holder(side)}.truncate"), True, TRANSFORMERS)(side)


def _attention_hf(side: ConfigSide) -> Stated | None:
    """Read whether cosine and sine are scaled by a factor other than YaRN's own."""
    found: Stated | None = _from_holder("attention_factor")(side)
    factor = FACTOR.read(side)
    if found is None or factor is None:
        return Stated("YaRN's own", None, None, TRANSFORMERS)
    own = 0.1 * math.log(factor.value) + 1 if factor.value > 1 else 1.0
    return replace(found, value="YaRN's own" if equal(found.value, own) else found.value)


def _factor_args(value: Any, side: ConfigSide) -> Settings:
    names = {
        "llama3": "rope_scaling_factor",
        "linear": "rotary_seq_len_interpolation_factor",
    }
    return {names.get(scaling_kind(side), "rotary_scaling_factor"): whole(value)}


def _scaling_args(value: Any, side: ConfigSide) -> Settings | None:
    """Set the kind of scaling, as far as Megatron has it. Factors have lines of their own."""
    off = {"use_rope_scaling": False}
    match str(value):
        case "none" if is_latent(side):
            return {**off, "rope_type": "rope", "rotary_scaling_factor": 1.0}
        case "none":
            return off
        case "llama3":
            return {"use_rope_scaling": True}
        case "linear":
            return off
        case "yarn" if is_latent(side):
            return {**off, "rope_type": "yarn"}
        case "yarn":
            return {**off, "position_embedding_type": "yarn"}
    return None


def _scaling_entries(value: Any, _: ConfigSide) -> Settings | None:
    side, name = value.side, str(value)
    factor = FACTOR.read(side)
    if name == "none" or factor is None:
        return {"rope_scaling": unscaled(side.family)} if name == "none" else None
    held = {"rope_type": name, "factor": float(factor.value)}
    keys = {"llama3": tuple(FIXED), "linear": (), "yarn": (*YARN, *SCALES)}.get(name)
    if keys is None:
        return None
    for key in keys:
        found = (_llama3(key) if name == "llama3" else _yarn_reader(key))[1](side)
        if found is not None:
            held[key] = found.value
    if name == "yarn" and side.get(_ROUNDING) is False:
        held["truncate"] = False
    original = _original_megatron(side) if name == "yarn" else None
    if original is None:
        return {"rope_scaling": held}
    held["original_max_position_embeddings"] = original.value
    longest = side.get("max_position_embeddings")
    if longest == original.value:  # Megatron's latent attention has one field for both
        longest = int(original.value * factor.value)
    return {"rope_scaling": held, "max_position_embeddings": longest}


def _yarn_reader(key: str) -> tuple[Reader, Reader]:
    return _yarn(key) if key in YARN else _scale(key, SCALES[key])


def _original_args(value: Any, side: ConfigSide) -> Settings:
    return {f"{'' if is_latent(side) else 'yarn_'}original_max_position_embeddings": value}


def _beta_args(key: str) -> Setter:
    return lambda value, side: {key if is_latent(side) else f"yarn_{key}": value}


FACTOR = ConfigField(
    "RoPE scaling factor",
    _from_holder("factor"),
    _factor_megatron,
    "Positions are stretched by another factor, which shows in long sequences.",
    _factor_args,
    sets_nothing,
    applies=scaled("llama3", "linear", "yarn", "dynamic"),
)

SCALING: tuple[ConfigField, ...] = (
    ConfigField(
        "RoPE scaling",
        _whole_scaling_hf,
        _whole_scaling_megatron,
        "Rotary frequencies differ, so logits differ, most of all in long sequences.",
        _scaling_args,
        _scaling_entries,
        applies=is_rotary,
        equal=lambda a, b: str(a) == str(b),
        cannot=CANNOT,
        fix=_scaling_fix,
    ),
    FACTOR,
    *(
        ConfigField(
            f"RoPE {words}",
            *_llama3(key),
            "Rotary frequencies are scaled elsewhere, which shows in long sequences.",
            sets_nothing,
            sets_nothing,
            applies=scaled("llama3"),
            cannot=CANNOT,
        )
        for key, words in (
            ("low_freq_factor", "low frequency factor"),
            ("high_freq_factor", "high frequency factor"),
            ("original_max_position_embeddings", "original length"),
        )
    ),
    ConfigField(
        "YaRN original length",
        _original_hf,
        _original_megatron,
        "Rotary frequencies are scaled elsewhere, which shows in long sequences.",
        _original_args,
        sets_nothing,
        applies=scaled("yarn"),
        cannot=NO_LATENT_FLAG,
    ),
    *(
        ConfigField(
            f"YaRN {key}",
            *_yarn(key),
            "The border between scaled and unscaled rotary frequencies lies elsewhere.",
            _beta_args(key),
            sets_nothing,
            applies=scaled("yarn"),
            cannot=NO_LATENT_FLAG,
        )
        for key in YARN
    ),
    *(
        ConfigField(
            f"YaRN {key}",
            *_scale(key, other),
            "Attention is sharper or flatter in every layer.",
            sets(key),
            sets_nothing,
            applies=scaled("yarn"),
        )
        for key, other in SCALES.items()
    ),
    ConfigField(
        "YaRN rounding",
        _rounding_hf,
        default(switch(_ROUNDING), True, MEGATRON),
        "The border between scaled and unscaled rotary frequencies is whole on one side only.",
        sets(_ROUNDING),
        sets_nothing,
        applies=scaled("yarn"),
    ),
    ConfigField(
        "YaRN attention factor",
        _attention_hf,
        lambda _: Stated("YaRN's own", None, None, MEGATRON),
        "Attention is sharper or flatter in every layer.",
        lambda value, _: {} if value == "YaRN's own" else None,
        sets_nothing,
        applies=scaled("yarn"),
        cannot="Megatron takes YaRN's own factor, of mscale and mscale_all_dim.",
    ),
)
