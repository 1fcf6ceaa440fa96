"""Whether two tensors are equal in every bit, read no further than the first part that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.comparison.parts import plan_diff, run_parts
from ckptdiff.errors import UnreadableFile

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly


def are_equal(one: Assembly, other: Assembly) -> bool:
    """Return whether both have one dtype, one shape and the same bits; copies are not read.

    Raises UnreadableFile if a part cannot be read, UnsupportedLayout if a piece is no matrix.
    """
    if (one.dtype, one.shape, one.is_scaled) != (other.dtype, other.shape, other.is_scaled):
        return False
    for part in plan_diff(one.without_copies(), other.without_copies()).parts:
        (outcome,) = run_parts([part])
        if outcome.stats is None:
            raise UnreadableFile(outcome.error or "")
        if outcome.stats.differing:
            return False
    return True
