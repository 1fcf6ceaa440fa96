"""How the tensor list is sorted."""

from __future__ import annotations

from math import inf, isnan
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.results import TensorDiff

ItemT = TypeVar("ItemT")
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
    """Return names sorted; they come in model order. Those without a result are last."""
    if sort == "model":
        return names[::-1] if reverse else names
    if sort == "size":
        return sorted(names, key=lambda name: -sizes[name], reverse=reverse)
    keys = {name: badness(results[name], sort) for name in names if name in results}
    unknown = [name for name in names if name not in keys]
    return sorted(keys, key=keys.__getitem__, reverse=reverse) + unknown


def badness(result: TensorDiff, sort: Literal["max", "cos"]) -> float:
    """Return the number to sort by: the worse the result, the lower."""
    if result.numbers is None:  # other shapes, missing, not readable: worse than any number
        return -inf
    key = -result.numbers.max_abs if sort == "max" else result.numbers.cosine
    return -inf if isnan(key) else key


def around(items: Sequence[ItemT], at: int, step: Literal[1, -1]) -> list[ItemT]:
    """Return all items in the order of the way from `at`, which comes last: forward or back."""
    count = len(items)
    return [items[(at + step * distance) % count] for distance in range(1, count + 1)]
