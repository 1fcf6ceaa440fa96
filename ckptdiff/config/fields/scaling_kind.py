"""By which kind of scaling a side scales its rotary embeddings, and by what factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields.base import MEGATRON, TRANSFORMERS, Stated, number
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.rope_holder import holder_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.config.fields.base import ConfigSide, Reader

ORIGINAL_LENGTH = "original_max_position_embeddings"
LATENT_FACTOR = 40  # of MLATransformerConfig, whose scaling is YaRN unless it is told otherwise


def holder(side: ConfigSide) -> str:
    """Return the name of the object that holds a config.json's scaling."""
    return holder_name(side.fields)


def kind_hf(side: ConfigSide) -> Stated | None:
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


def kind_megatron(side: ConfigSide) -> Stated | None:
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
    found = kind_hf(side) if side.kind == "hf" else kind_megatron(side)
    return "none" if found is None else str(found.value)


def scaled(*kinds: str) -> Callable[[ConfigSide], bool]:
    """Return a condition: does a side scale its rotary embeddings in one of these ways?"""
    return lambda side: is_rotary(side) and scaling_kind(side) in kinds


def from_holder(key: str) -> Reader:
    """Read a field of a config.json's scaling."""
    return lambda side: number(f"{holder(side)}.{key}")(side)


def original_length_hf(side: ConfigSide) -> Stated | None:
    """Read the length before scaling; beside the object it counts more, as in Phi 3.

    Source: RotaryEmbeddingConfigMixin.standardize_rope_params of transformers 5.
    """
    is_nested = "." in holder(side)  # by kind of layer: then what stands beside is not read
    beside = None if is_nested else number(ORIGINAL_LENGTH)(side)
    return beside or from_holder(ORIGINAL_LENGTH)(side)
