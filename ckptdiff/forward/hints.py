"""Say how two values are related, where that is plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_LARGE = 1e-2  # relative: below, values are nearly the same and no order is worth telling
_EQUAL = 1e-5


def hint(a: Tensor, b: Tensor) -> str:
    """Return words for b, given a of (positions, …, features), or nothing."""
    if a.shape != b.shape:
        return f"the shapes differ: {list(a.shape[1:])} and {list(b.shape[1:])}"
    odd = [letter for letter, x in (("A", a), ("B", b)) if not bool(torch.isfinite(x).all())]
    if odd:
        return f"not finite on {' and '.join(odd)}"
    if not _apart(a, b, _LARGE):
        return ""
    if a.dim() > 2 and not _apart(a.sort(-1).values, b.sort(-1).values, _EQUAL):
        return "the same values in another order inside each head"
    if not _apart(a.flatten(1).sort(-1).values, b.flatten(1).sort(-1).values, _EQUAL):
        return "the same values in another order"
    wide = a.double(), b.double()
    factor = float((wide[0] * wide[1]).sum() / wide[0].square().sum())
    if factor and not _apart(a * factor, b, 1e-3 * abs(factor)):
        return f"{factor:.4g} times as large"
    return ""


def _apart(a: Tensor, b: Tensor, limit: float) -> bool:
    return bool((a.double() - b.double()).norm() > limit * a.double().norm())
