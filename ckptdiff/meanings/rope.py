"""Rotary embeddings: base, how much of a head is rotated, pairs or halves, and scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.meanings.base import (
    MEGATRON,
    TRANSFORMERS,
    Meaning,
    Reading,
    Side,
    default,
    first,
    flag,
    no_flag,
    number,
    show,
    stated,
)
from ckptdiff.meanings.positions import rotary
from ckptdiff.meanings.shape import latent

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.meanings.base import Reader

HOLDERS = ("rope_parameters", "rope_scaling")  # transformers 5 and 4
# Megatron's apply_rope_scaling takes the factor and nothing else.
FIXED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
INTERPOLATION = "--rotary-seq-len-interpolation-factor"
YARN = {"beta_fast": 32.0, "beta_slow": 1.0}
CANNOT = (
    "Megatron cannot represent it: of llama3's scaling it takes the factor, and hard-codes 1, 4 "
    "and 8192 for low_freq_factor, high_freq_factor and original_max_position_embeddings."
)
BASES = {"mixtral": 1e6}  # where config.json says none


def holder(side: Side) -> str:
    """Return the name of the object that holds a config.json's scaling."""
    return next((name for name in HOLDERS if isinstance(side.get(name), dict)), HOLDERS[1])


def _kind_hf(side: Side) -> Reading | None:
    name = holder(side)
    for key in ("rope_type", "type"):
        raw = side.get(f"{name}.{key}")
        if raw is not None:
            value = "none" if raw == "default" or _is_one(side, name, raw) else raw
            return Reading(value, f"{name}.{key}", raw)
    if side.has(name):
        return Reading("none", name, None)
    return Reading("none", None, "none", TRANSFORMERS)


def _is_one(side: Side, name: str, kind: Any) -> bool:
    return kind in ("linear", "yarn", "dynamic") and side.get(f"{name}.factor") == 1


def _kind_megatron(side: Side) -> Reading | None:
    if latent(side):
        kind, factor = side.get("rope_type") or "yarn", side.get("rotary_scaling_factor")
        if kind != "yarn":
            return Reading("none", "rope_type", kind)
        if factor == 1:
            return Reading("none", "rotary_scaling_factor", factor)
        name = "rope_type" if side.get("rope_type") else "rotary_scaling_factor"
        return Reading("yarn", name, side.get(name), None if side.has(name) else MEGATRON)
    if side.get("position_embedding_type") == "yarn":
        return Reading("yarn", "position_embedding_type", "yarn")
    if side.get("use_rope_scaling"):
        return Reading("llama3", "use_rope_scaling", side.get("use_rope_scaling"))
    factor = side.get("rotary_seq_len_interpolation_factor")
    if factor not in (None, 1):
        return Reading("linear", "rotary_seq_len_interpolation_factor", factor)
    if side.has("use_rope_scaling"):
        return Reading("none", "use_rope_scaling", side.get("use_rope_scaling"))
    return Reading("none", None, "none", MEGATRON)


def kind(side: Side) -> str:
    found = _kind_hf(side) if side.kind == "hf" else _kind_megatron(side)
    return "none" if found is None else str(found.value)


def scaled(*kinds: str) -> Callable[[Side], bool]:
    """Ask whether a side scales its rotary embeddings in one of these ways."""
    return lambda side: rotary(side) and kind(side) in kinds


def _whole_scaling_hf(side: Side) -> Reading | None:
    """Read the kind of scaling; its value carries what a flag needs."""
    found = _kind_hf(side)
    return found and Reading(_Kind(found.value, side), found.name, found.raw, found.source)


def _whole_scaling_megatron(side: Side) -> Reading | None:
    found = _kind_megatron(side)
    return found and Reading(_Kind(found.value, side), found.name, found.raw, found.source)


class _Kind(str):
    """A kind of scaling that remembers whose it is."""

    __slots__ = ("side",)
    side: Side

    def __new__(cls, kind: Any, side: Side) -> _Kind:
        made = str.__new__(cls, kind)
        made.side = side
        return made


def _scaling_fix(value: Any, side: Side) -> str | None:
    if value == "none":
        flags = {"llama3": "--use-rope-scaling", "linear": INTERPOLATION}
        return f"leave out {flags.get(kind(side), '--rotary-scaling-factor')}"
    factor = FACTOR.read(value.side)
    if factor is None:
        return None
    match str(value):
        case "llama3" if all(_fixed(value.side, key) == FIXED[key] for key in FIXED):
            return f"--use-rope-scaling --rope-scaling-factor {show(factor.value)}"
        case "linear":
            return f"{INTERPOLATION} {show(factor.value)}"
        case "yarn" if latent(value.side):
            return f"--rope-type yarn --rotary-scaling-factor {show(factor.value)}"
    return None


def _fixed(side: Side, key: str) -> Any:
    found = _llama3(key)[0 if side.kind == "hf" else 1](side)
    return None if found is None else found.value


def _held(key: str) -> Reader:
    """Read a field of a config.json's scaling."""
    return lambda side: number(f"{holder(side)}.{key}")(side)


def _factor_megatron(side: Side) -> Reading | None:
    if kind(side) == "llama3":
        return default(number("rope_scaling_factor"), 8.0, MEGATRON)(side)
    names = ("rotary_seq_len_interpolation_factor",)
    if kind(side) == "yarn":
        names = ("rotary_scaling_factor",) if latent(side) else ("yarn_rotary_scaling_factor",)
    return number(*names)(side)


def _llama3(key: str) -> tuple[Reader, Reader]:
    fixed = FIXED[key]
    return _held(key), lambda _: Reading(fixed, None, fixed, "Megatron hard-codes it")


def _original_hf(side: Side) -> Reading | None:
    found: Reading | None = _held("original_max_position_embeddings")(side)
    if found is not None:
        return found
    found = number("max_position_embeddings")(side)
    return found and Reading(found.value, found.name, found.raw, "no field for the original length")


def _original_megatron(side: Side) -> Reading | None:
    if not latent(side):
        return number("yarn_original_max_position_embeddings")(side)
    return number("original_max_position_embeddings", "max_position_embeddings")(side)


def _yarn(key: str) -> tuple[Reader, Reader]:
    def megatron(side: Side) -> Reading | None:
        names = (key,) if latent(side) else (f"yarn_{key}",)
        return default(number(*names), YARN[key], MEGATRON)(side)

    return default(_held(key), YARN[key], TRANSFORMERS), megatron


def _scale(key: str, other: float) -> tuple[Reader, Reader]:
    def megatron(side: Side) -> Reading | None:
        names = (key,) if latent(side) else (f"yarn_{key}",)
        return number(*names)(side)

    return default(_held(key), other, TRANSFORMERS), megatron


def _interleaving_hf(side: Side) -> Reading | None:
    if latent(side):
        return default(
            stated("rope_interleave", by=lambda on: "pairs" if on else "halves"),
            "pairs",
            TRANSFORMERS,
        )(side)
    if side.family is None:
        return None
    return Reading("halves", None, "halves", f"every {side.family} model")


def _interleaving_megatron(side: Side) -> Reading | None:
    name = "rotary_interleaved"
    on = bool(side.get(name))
    if latent(side):
        # Latent attention undoes the pairs itself, before it looks at the flag.
        value = "pairs, taken apart twice" if on else "pairs"
        return Reading(value, name if on else "multi_latent_attention", True)
    value = "pairs" if on else "halves"
    if side.has(name):
        return Reading(value, name, side.get(name))
    return Reading(value, None, value, MEGATRON)


def _factor_fix(value: Any, side: Side) -> str:
    flags = {"llama3": "--rope-scaling-factor", "linear": INTERPOLATION}
    return f"{flags.get(kind(side), '--rotary-scaling-factor')} {show(value)}"


def _original_fix(value: Any, side: Side) -> str:
    name = "original_max_position_embeddings"
    name = name if side.has(name) else "max_position_embeddings"
    return f"--{name.replace('_', '-')} {show(value)}"


def _interleaving_fix(value: Any, side: Side) -> str | None:
    if latent(side) and value != "pairs":
        return None
    interleaved = value == "pairs" and not latent(side)
    return "--rotary-interleaved" if interleaved else "leave out --rotary-interleaved"


def _base_default(side: Side) -> Reading | None:
    if side.family is None:
        return None
    base = BASES.get(side.family, 10000.0)
    return Reading(base, None, base, TRANSFORMERS)


def _percent_default(side: Side) -> Reading | None:
    if side.family is None:
        return None
    percent = 0.5 if side.family == "nemotron" else 1.0
    return Reading(percent, None, percent, TRANSFORMERS)


FACTOR = Meaning(
    "RoPE scaling factor",
    _held("factor"),
    _factor_megatron,
    "Positions are stretched by another factor, which shows in long sequences.",
    _factor_fix,
    applies=scaled("llama3", "linear", "yarn", "dynamic"),
)

ROPE: tuple[Meaning, ...] = (
    Meaning(
        "RoPE base",
        first(number("rope_parameters.rope_theta", "rope_theta", "rotary_emb_base"), _base_default),
        default(number("rotary_base"), 10000, MEGATRON),
        "Weights can match exactly while every logit differs, the more the longer the sequence.",
        flag("--rotary-base"),
        applies=rotary,
    ),
    Meaning(
        "RoPE scaling",
        _whole_scaling_hf,
        _whole_scaling_megatron,
        "Rotary frequencies differ, so logits differ, most of all in long sequences.",
        _scaling_fix,
        applies=rotary,
        equal=lambda a, b: str(a) == str(b),
        cannot=CANNOT,
    ),
    FACTOR,
    *(
        Meaning(
            f"RoPE {words}",
            *_llama3(key),
            "Rotary frequencies are scaled elsewhere, which shows in long sequences.",
            no_flag,
            applies=scaled("llama3"),
            cannot=CANNOT,
        )
        for key, words in (
            ("low_freq_factor", "low frequency factor"),
            ("high_freq_factor", "high frequency factor"),
            ("original_max_position_embeddings", "original length"),
        )
    ),
    Meaning(
        "YaRN original length",
        _original_hf,
        _original_megatron,
        "Rotary frequencies are scaled elsewhere, which shows in long sequences.",
        _original_fix,
        applies=scaled("yarn"),
    ),
    *(
        Meaning(
            f"YaRN {key}",
            *_yarn(key),
            "The border between scaled and unscaled rotary frequencies lies elsewhere.",
            no_flag,
            applies=scaled("yarn"),
            cannot="Megatron-LM has no flag for it: set it in the model's config.",
        )
        for key in YARN
    ),
    *(
        Meaning(
            f"YaRN {key}",
            *_scale(key, other),
            "Attention is sharper or flatter in every layer.",
            flag(f"--{key.replace('_', '-')}"),
            applies=scaled("yarn"),
        )
        for key, other in (("mscale", 1.0), ("mscale_all_dim", 0.0))
    ),
    Meaning(
        "Rotated part of a head",
        first(
            number("partial_rotary_factor", "rope_parameters.partial_rotary_factor", "rotary_pct"),
            _percent_default,
        ),
        default(number("rotary_percent"), 1.0, MEGATRON),
        "Another number of channels is rotated, so attention scores are wrong in every layer.",
        flag("--rotary-percent"),
        applies=lambda side: rotary(side) and not latent(side),
    ),
    Meaning(
        "Rotary pairs",
        _interleaving_hf,
        _interleaving_megatron,
        "Channels are rotated in other pairs, so attention scores are wrong in every layer.",
        _interleaving_fix,
        applies=rotary,
    ),
)
