"""How rotary embeddings are scaled for long sequences: linear, llama3's, and YaRN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    ConfigField,
    ConfigSide,
    Stated,
    default,
    number,
    sets_nothing,
    show,
    whole,
)
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.scaling_kind import (
    LATENT_FACTOR,
    ORIGINAL_LENGTH,
    from_holder,
    kind_hf,
    kind_megatron,
    original_length_hf,
    scaled,
    scaling_kind,
)
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.fields.yarn import YARN_FIELDS, yarn_entries
from ckptdiff.config.fixes import FlagFix
from ckptdiff.config.rope_holder import unscaled

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Reader, Settings

# Megatron's apply_rope_scaling takes the factor only, and hard-codes these. What builds the model
# does not hand it the factor of the args: LLAMA3 counts.
LLAMA3 = 8
FIXED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_OF_CLASS = {"original_max_position_embeddings": "old_context_len"}
INTERPOLATION = "--rotary-seq-len-interpolation-factor"
CANNOT = (
    "Megatron cannot represent it: it scales as Llama 3.1 does, with a factor of 8, and 1, 4 and "
    "8192 for low_freq_factor, high_freq_factor and original_max_position_embeddings."
)


def _whole_scaling_hf(side: ConfigSide) -> Stated | None:
    """Read the kind of scaling; its value also holds the side, which a flag needs."""
    found = kind_hf(side)
    return found and Stated(_Kind(found.value, side), found.name, found.raw, found.source)


def _whole_scaling_megatron(side: ConfigSide) -> Stated | None:
    found = kind_megatron(side)
    return found and Stated(_Kind(found.value, side), found.name, found.raw, found.source)


class _Kind(str):
    """A kind of scaling, and the side that has it."""

    __slots__ = ("side",)
    side: ConfigSide

    def __new__(cls, kind: Any, side: ConfigSide) -> _Kind:
        made = str.__new__(cls, kind)
        made.side = side
        return made


def _scaling_fix(value: Any, side: ConfigSide) -> FlagFix | None:
    if value == "none":
        if is_latent(side):  # without the flag, its own default of 40 counts
            rope = [("--rope-type", "rope")] if side.has("rope_type") else []
            return FlagFix((*rope, ("--rotary-scaling-factor", "1")))
        if scaling_kind(side) == "yarn":
            return FlagFix((("--position-embedding-type", "rope"),))
        flags = {"llama3": "--use-rope-scaling", "linear": INTERPOLATION}
        return FlagFix(left_out=(flags[scaling_kind(side)],))
    factor = FACTOR.read(value.side)
    if factor is None:
        return None
    match str(value):
        case "llama3" if is_llama31(value.side):
            return FlagFix((("--use-rope-scaling",),))
        case "linear":
            return FlagFix(((INTERPOLATION, show(factor.value)),))
        case "yarn":
            kind = "--rope-type" if is_latent(value.side) else "--position-embedding-type"
            return FlagFix(((kind, "yarn"), ("--rotary-scaling-factor", show(factor.value))))
    return None


def is_llama31(side: ConfigSide) -> bool:
    """Return whether llama3's scaling has the numbers of Llama 3.1, the only ones of Megatron."""
    factor = FACTOR.read(side)
    fixed = all(_fixed(side, key) == FIXED[key] for key in FIXED)
    return fixed and factor is not None and bool(factor.value == LLAMA3)


def _fixed(side: ConfigSide, key: str) -> Any:
    found = _llama3(key)[0 if side.kind == "hf" else 1](side)
    return None if found is None else found.value


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

    return original_length_hf if key == ORIGINAL_LENGTH else from_holder(key), megatron


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
    match name:
        case "linear":
            return {"rope_scaling": held}
        case "llama3":
            read = {key: _llama3(key)[1](side) for key in FIXED}
            return {"rope_scaling": held | {key: one.value for key, one in read.items() if one}}
        case "yarn":
            return yarn_entries(held, side)
    return None


FACTOR = ConfigField(
    "RoPE scaling factor",
    from_holder("factor"),
    _factor_megatron,
    "Positions are stretched by another factor, which shows in long sequences.",
    _factor_args,
    sets_nothing,
    applies=scaled("llama3", "linear", "yarn", "dynamic"),
    moves=moves.ROTATED | moves.ATTEND,
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
        moves=moves.ROTATED | moves.ATTEND,
    ),
    FACTOR,
    *(
        ConfigField(
            f"RoPE {words}",
            *_llama3(key),
            "Other rotary frequencies are scaled, which shows in long sequences.",
            sets_nothing,
            sets_nothing,
            applies=scaled("llama3"),
            cannot=CANNOT,
            moves=moves.ROTATED,
        )
        for key, words in (
            ("low_freq_factor", "low frequency factor"),
            ("high_freq_factor", "high frequency factor"),
            ("original_max_position_embeddings", "original length"),
        )
    ),
    *YARN_FIELDS,
)
