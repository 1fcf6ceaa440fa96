"""What the list can be sorted by."""

from __future__ import annotations

from math import inf, isnan
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.results import TensorDiff

Sort = Literal["model", "max", "cos", "size"]

SORTS: dict[Sort, str] = {
    "model": "model order",
    "max": "largest max|d| first",
    "cos": "lowest cos first",
    "size": "largest first",
}
REVERSED: dict[Sort, str] = {
    "model": "model order, reversed",
    "max": "smallest max|d| first",
    "cos": "highest cos first",
    "size": "smallest first",
}


def ordered(
    names: list[str],
    sort: Sort,
    *,
    reverse: bool,
    results: Mapping[str, TensorDiff],
    sizes: Mapping[str, int],
) -> list[str]:
    """Return names, which come in model order, sorted; those without a result yet are last."""
    if sort == "model":
        return names[::-1] if reverse else names
    if sort == "size":
        return sorted(names, key=lambda name: -sizes[name], reverse=reverse)
    keys = {name: _badness(results[name], sort) for name in names if name in results}
    unknown = [name for name in names if name not in keys]
    return sorted(keys, key=keys.__getitem__, reverse=reverse) + unknown


def _badness(result: TensorDiff, sort: Literal["max", "cos"]) -> float:
    """Return what to sort by, the worst lowest."""
    if result.numbers is None:  # shape, only in one, error: worse than any number
        return -inf
    key = -result.numbers.max_abs if sort == "max" else result.numbers.cosine
    return -inf if isnan(key) else key
