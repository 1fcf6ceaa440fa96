"""Describe how two values are related, if the relation is simple."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

NEARLY_EQUAL = 1e-2  # |A-B| / |A| up to which no relation is looked for
_EQUAL = 1e-5  # |A-B| / |A| up to which sorted values count as the same


def hint(a: Tensor, b: Tensor) -> str:
    """Return how b differs from a, in words, or nothing. Both are (positions, …, features)."""
    odd = [letter for letter, x in (("A", a), ("B", b)) if not bool(torch.isfinite(x).all())]
    if odd:
        return f"not finite on {' and '.join(odd)}"
    if not _differs(a, b, NEARLY_EQUAL):
        return ""
    if a.dim() > 2 and not _differs(a.sort(-1).values, b.sort(-1).values, _EQUAL):
        return "the same values in another order inside each head"
    if not _differs(a.flatten(1).sort(-1).values, b.flatten(1).sort(-1).values, _EQUAL):
        return "the same values in another order"
    wide = a.double(), b.double()
    factor = float((wide[0] * wide[1]).sum() / wide[0].square().sum())
    if factor and not _differs(a * factor, b, 1e-3 * abs(factor)):
        return f"{factor:.4g} times as large"
    return ""


def _differs(a: Tensor, b: Tensor, limit: float) -> bool:
    """Return whether |a-b| is more than `limit` times |a|, in Euclidean norms."""
    return bool((a.double() - b.double()).norm() > limit * a.double().norm())
