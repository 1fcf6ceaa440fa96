"""Rotary positions: how fast each pair of elements turns.

Sources: transformers.modeling_rope_utils; megatron.core.models.common.embeddings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.model import yarn_scale

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import Rope


def angles(
    rope: Rope, positions: int, like: Tensor, *, polar: bool = False
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of (positions, rope.dim), in float32, in float64 for a float64 `like`.

    The frequencies themselves are always float32, as both programs keep them: a model that is cast
    as a whole would round them too. `polar` takes both from numbers on the unit circle, where a
    few have another last bit.
    """
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequencies, scale = _frequencies(rope, positions)
    numbers = torch.arange(positions, dtype=torch.float32)
    turned = torch.outer(numbers, frequencies).to(wide)
    both = torch.cat((turned, turned), -1).to(like.device)
    if polar:
        unit = torch.polar(torch.ones_like(both), both)
        return unit.real * scale, unit.imag * scale
    return both.cos() * scale, both.sin() * scale


def _frequencies(rope: Rope, positions: int) -> tuple[Tensor, float]:
    """Return (rope.dim / 2) radians a position, and the factor of cosine and sine."""
    kind = rope.kind
    if kind not in _KINDS:
        raise UnsupportedLayout(f"rotary positions of kind {kind!r} are not yet computed")
    return _KINDS[kind](rope, positions)


def _plain(rope: Rope, base: float | None = None) -> Tensor:
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return 1.0 / ((base or rope.base) ** exponents)


def _default(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    return _plain(rope), 1.0


def _linear(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    return _plain(rope) / rope.scaling["factor"], 1.0


def _dynamic(rope: Rope, positions: int) -> tuple[Tensor, float]:
    """Return frequencies of a base that grows once the text is longer than any in training."""
    trained, factor = rope.scaling["max_position_embeddings"], rope.scaling["factor"]
    length = max(positions, trained)
    growth = (factor * length / trained - (factor - 1)) ** (rope.dim / (rope.dim - 2))
    return _plain(rope, rope.base * growth), 1.0


def _llama3(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    told = rope.scaling
    factor, low, high = told["factor"], told["low_freq_factor"], told["high_freq_factor"]
    trained = told["original_max_position_embeddings"]
    plain = _plain(rope)
    wavelength = 2 * math.pi / plain
    scaled = torch.where(wavelength > trained / low, plain / factor, plain)
    smooth = (trained / wavelength - low) / (high - low)
    mixed = (1 - smooth) * scaled / factor + smooth * scaled
    between = ~(wavelength < trained / high) & ~(wavelength > trained / low)
    return torch.where(between, mixed, scaled), 1.0


def _yarn(rope: Rope, positions: int) -> tuple[Tensor, float]:  # noqa: ARG001
    told = rope.scaling
    trained = told.get("original_max_position_embeddings") or told["max_position_embeddings"]
    factor = told.get("factor") or told["max_position_embeddings"] / trained
    scale = told.get("attention_factor")
    if scale is None:
        mscale, all_dim = told.get("mscale"), told.get("mscale_all_dim")
        if mscale and all_dim:
            scale = yarn_scale(factor, mscale) / yarn_scale(factor, all_dim)
        else:
            scale = yarn_scale(factor)

    def turning(times: float) -> float:
        """Return the pair that turns this often in the text of training."""
        return rope.dim * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = turning(told.get("beta_fast") or 32), turning(told.get("beta_slow") or 1)
    if told.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    ramp = ((pairs - low) / (high - low if high > low else 0.001)).clamp(0, 1)
    plain = _plain(rope)
    return plain / factor * ramp + plain * (1 - ramp), scale


def _longrope(rope: Rope, positions: int) -> tuple[Tensor, float]:
    told = rope.scaling
    trained = told["original_max_position_embeddings"]
    factor = told["max_position_embeddings"] / trained
    scale = told.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    chosen = told["long_factor"] if positions > trained else told["short_factor"]
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
