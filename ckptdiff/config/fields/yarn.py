"""What YaRN has beside a factor: its original length, borders, and how sharp attention is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    Stated,
    default,
    equal,
    number,
    sets,
    sets_nothing,
    switch,
)
from ckptdiff.config.fields.scaling_kind import (
    LATENT_FACTOR,
    from_holder,
    holder,
    original_length_hf,
    scaled,
)
from ckptdiff.config.fields.shape import is_latent

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import ConfigSide, Reader, Setter, Settings

_YARN = {"beta_fast": 32.0, "beta_slow": 1.0}
_SCALES = {"mscale": 1.0, "mscale_all_dim": 0.0}
_ROUNDING = "yarn_correction_range_round_to_int"
_NO_LATENT_FLAG = (
    "Megatron-LM has no flag for it beside latent attention: 4096, 32 and 1 count for "
    "original_max_position_embeddings, beta_fast and beta_slow."
)


def _original_hf(side: ConfigSide) -> Stated | None:
    found = original_length_hf(side)
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
        return default(number(*names), _YARN[key], MEGATRON)(side)

    return default(from_holder(key), _YARN[key], TRANSFORMERS), megatron


def _scale(key: str, other: float) -> tuple[Reader, Reader]:
    def huggingface(side: ConfigSide) -> Stated | None:
        stated = {name: from_holder(name)(side) for name in _SCALES}
        found = stated[key]
        is_read = all(one is not None and one.value for one in stated.values())
        if found is None or is_read or (key == "mscale_all_dim" and is_latent(side)):
            return default(lambda _: found, other, TRANSFORMERS)(side)
        return Stated(other, None, other, f"transformers reads {' and '.join(_SCALES)} together")

    def megatron(side: ConfigSide) -> Stated | None:
        names = (key,) if is_latent(side) else (f"yarn_{key}", key)
        return number(*names)(side)

    return huggingface, megatron


def _rounding_hf(side: ConfigSide) -> Stated | None:
    return default(switch(f"{holder(side)}.truncate"), True, TRANSFORMERS)(side)


def _sharpness(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _own_factor(side: ConfigSide) -> float | None:
    """Return by what cosine and sine are scaled if no attention_factor says it."""
    if side.kind == "hf":
        factor = from_holder("factor")(side) or _stretched(side)
        scales = [one.value for name in _SCALES if (one := from_holder(name)(side)) is not None]
        # They are read together, or not at all.
        mscale, all_dim = scales if scales[1:] and all(scales) else _SCALES.values()
    else:
        prefix, missing = ("", float(LATENT_FACTOR)) if is_latent(side) else ("yarn_", 1.0)
        names = f"{prefix}rotary_scaling_factor", "rotary_scaling_factor"
        factor = default(number(*names), missing, MEGATRON)(side)
        readings = (_scale(name, other)[1](side) for name, other in _SCALES.items())
        mscale, all_dim = (
            other if found is None else found.value
            for found, other in zip(readings, _SCALES.values(), strict=True)
        )
    if factor is None:
        return None
    return _sharpness(factor.value, mscale) / _sharpness(factor.value, all_dim)


def _stretched(side: ConfigSide) -> Stated | None:
    """Return the factor of a config.json that states two lengths alone."""
    longest, original = number("max_position_embeddings")(side), original_length_hf(side)
    if longest is None or original is None:
        return None
    return replace(longest, value=longest.value / original.value)


def _own_stated(side: ConfigSide) -> Stated | None:
    own = _own_factor(side)
    source = TRANSFORMERS if side.kind == "hf" else MEGATRON
    return None if own is None else Stated(own, None, round(own, 6), source)


def _attention_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = from_holder("attention_factor")(side)
    return found if found is not None else _own_stated(side)


def _as_sharp(a: ConfigSide, b: ConfigSide) -> str | None:
    """Return why other scales change nothing; None if they do."""
    stated = [side for side in (a, b) if from_holder("attention_factor")(side) is not None]
    if not stated or is_latent(a) or is_latent(b):  # which scales scores by mscale_all_dim as well
        return None
    readers = (_attention_hf if side.kind == "hf" else _own_stated for side in (a, b))
    one, other = (read(side) for read, side in zip(readers, (a, b), strict=True))
    is_same = one is not None and other is not None and equal(one.value, other.value)
    return "the attention factor of both is the same" if is_same else None


def yarn_entries(held: Settings, side: ConfigSide) -> Settings:
    """Return config.json's entries of YaRN's scaling, from Megatron's args and what is `held`."""
    held = dict(held)
    readers = {key: _yarn(key)[1] for key in _YARN}
    readers |= {key: _scale(key, other)[1] for key, other in _SCALES.items()}
    for key, read in readers.items():
        if (found := read(side)) is not None:
            held[key] = found.value
    if _SCALES.items() <= held.items():  # which says nothing
        held = {key: held[key] for key in held if key not in _SCALES}
    if side.get(_ROUNDING) is False:
        held["truncate"] = False
    original = _original_megatron(side)
    if original is None:
        return {"rope_scaling": held}
    held["original_max_position_embeddings"] = original.value
    longest = side.get("max_position_embeddings")
    if longest == original.value:  # Megatron's latent attention has one field for both
        longest = int(original.value * held["factor"])
    return {"rope_scaling": held, "max_position_embeddings": longest}


def _original_args(value: Any, side: ConfigSide) -> Settings:
    return {f"{'' if is_latent(side) else 'yarn_'}original_max_position_embeddings": value}


def _beta_args(key: str) -> Setter:
    return lambda value, side: {key if is_latent(side) else f"yarn_{key}": value}


YARN_FIELDS: tuple[ConfigField, ...] = (
    ConfigField(
        "YaRN original length",
        _original_hf,
        _original_megatron,
        "Other rotary frequencies are scaled, which shows in long sequences.",
        _original_args,
        sets_nothing,
        applies=scaled("yarn"),
        cannot=_NO_LATENT_FLAG,
        moves=moves.ROTATED,
    ),
    *(
        ConfigField(
            f"YaRN {key}",
            *_yarn(key),
            "The border between scaled and unscaled rotary frequencies lies elsewhere.",
            _beta_args(key),
            sets_nothing,
            applies=scaled("yarn"),
            cannot=_NO_LATENT_FLAG,
            moves=moves.ROTATED,
        )
        for key in _YARN
    ),
    *(
        ConfigField(
            f"YaRN {key}",
            *_scale(key, other),
            "Attention is sharper or flatter in every layer.",
            sets(key),
            sets_nothing,
            applies=scaled("yarn"),
            harmless=_as_sharp,
            moves=moves.ROTATED | moves.ATTEND,
        )
        for key, other in _SCALES.items()
    ),
    ConfigField(
        "YaRN rounding",
        _rounding_hf,
        default(switch(_ROUNDING), True, MEGATRON),
        "The border of scaled rotary frequencies is rounded on one side only.",
        sets(_ROUNDING),
        sets_nothing,
        applies=scaled("yarn"),
        moves=moves.ROTATED,
    ),
    ConfigField(
        "YaRN attention factor",
        _attention_hf,
        _own_stated,
        "Attention is sharper or flatter in every layer.",
        lambda value, side: {} if equal(value, _own_factor(side)) else None,
        sets_nothing,
        applies=scaled("yarn"),
        cannot="Megatron takes YaRN's own factor, of mscale and mscale_all_dim.",
        moves=moves.ROTATED,
    ),
)
