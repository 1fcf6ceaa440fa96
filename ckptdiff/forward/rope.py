"""Rotary positions: the angle by which each pair of channels is rotated.

Sources: transformers.modeling_rope_utils; megatron.core.models.common.embeddings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward.model import yarn_scale

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import Rope


def angles(
    rope: Rope, positions: int, like: Tensor, *, polar: bool = False
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (positions, rope.dim), in float32, or float64 if `like` is.

    Frequencies are always float32, as both programs keep them. `polar` takes cosine and sine from
    torch.polar as Meta's code does, where a few have another last bit. Raises UnsupportedLayout for
    a kind that is not computed.
    """
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    per_position, scale = frequencies(rope, positions)
    position_ids = torch.arange(positions, dtype=torch.float32)
    radians = torch.outer(position_ids, per_position).to(wide)
    doubled = torch.cat((radians, radians), -1).to(like.device)
    if polar:
        unit = torch.polar(torch.ones_like(doubled), doubled)
        return unit.real * scale, unit.imag * scale
    return doubled.cos() * scale, doubled.sin() * scale


def frequencies(rope: Rope, positions: int) -> tuple[Tensor, float]:
    """Return radians per position, (rope.dim / 2,), and the factor of cosine and sine."""
    kind = rope.kind
    if kind not in _KINDS:
        raise UnsupportedLayout(f"rotary positions of kind {kind!r} are not yet computed")
    try:
        return _KINDS[kind](rope, positions)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise UnknownConfig(
            f"config.json or args: rotary positions of kind {kind} cannot be computed from what is "
            f"there ({type(error).__name__}: {error})"
        ) from error


def _plain(rope: Rope, base: float | None = None) -> Tensor:
    """Return the unscaled frequencies in radians per position, (rope.dim / 2,)."""
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return 1.0 / ((base or rope.base) ** exponents)


def _default(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    return _plain(rope), 1.0


def _linear(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    return _plain(rope) / rope.scaling["factor"], 1.0


def _dynamic(rope: Rope, positions: int) -> tuple[Tensor, float]:
    """Return frequencies of a base that grows with a text longer than in training."""
    original_length, factor = rope.scaling["max_position_embeddings"], rope.scaling["factor"]
    length = max(positions, original_length)
    growth = (factor * length / original_length - (factor - 1)) ** (rope.dim / (rope.dim - 2))
    return _plain(rope, rope.base * growth), 1.0


def _llama3(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    scaling = rope.scaling
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original_length = scaling["original_max_position_embeddings"]
    plain = _plain(rope)
    wavelength = 2 * math.pi / plain
    scaled = torch.where(wavelength > original_length / low, plain / factor, plain)
    smooth = (original_length / wavelength - low) / (high - low)
    mixed = (1 - smooth) * scaled / factor + smooth * scaled
    between = ~(wavelength < original_length / high) & ~(wavelength > original_length / low)
    return torch.where(between, mixed, scaled), 1.0


def _yarn(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    scaling = rope.scaling
    original_length = (
        scaling.get("original_max_position_embeddings") or scaling["max_position_embeddings"]
    )
    factor = scaling.get("factor") or scaling["max_position_embeddings"] / original_length
    scale = scaling.get("attention_factor")
    if scale is None:
        mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
        if mscale and all_dim:
            scale = yarn_scale(factor, mscale) / yarn_scale(factor, all_dim)
        else:
            scale = yarn_scale(factor)

    def pair_of(times: float) -> float:
        """Return the index of the pair that makes `times` rotations over the original length."""
        return (
            rope.dim * math.log(original_length / (times * 2 * math.pi)) / (2 * math.log(rope.base))
        )

    low, high = pair_of(scaling.get("beta_fast") or 32), pair_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    kept = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    wavelengths = rope.base ** (torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim)
    return 1 / (factor * wavelengths) * (1 - kept) + 1 / wavelengths * kept, scale


def _longrope(rope: Rope, positions: int) -> tuple[Tensor, float]:
    scaling = rope.scaling
    original_length = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or scaling["max_position_embeddings"] / original_length
    scale = scaling.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(original_length)) if factor > 1 else 1.0
    chosen = scaling["long_factor"] if positions > original_length else scaling["short_factor"]
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return 1.0 / (torch.tensor(chosen, dtype=torch.float32) * rope.base**exponents), scale


_KINDS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
