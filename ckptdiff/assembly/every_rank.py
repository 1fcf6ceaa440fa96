"""Look for a tensor on every rank that holds a copy or a shard of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.errors import MissingShard

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.assembly.recipe import Copy
    from ckptdiff.checkpoint import Rank


def check_every_rank(
    mapping: ParamMapping, copies: Iterable[list[Copy]], with_files: AbstractSet[Rank]
) -> None:
    """Raise MissingShard if a rank with a file has none of a tensor that its stage holds.

    Every rank of a pipeline stage holds the stage's tensors; an expert's only those of one expert
    index.
    """
    holders = {copy.rank for each in copies for copy in each}
    places = {_place(rank, mapping) for rank in holders}
    lacking = sorted(r for r in with_files - holders if _place(r, mapping) in places)
    if lacking:
        sizes = [s for s in ("tp", "pp", "ep") if any(getattr(rank, s) for rank in with_files)]
        ranks = [" ".join(f"{size} {getattr(rank, size)}" for size in sizes) for rank in lacking]
        has = "has" if len(ranks) == 1 else "have"
        raise MissingShard(f"rank {', '.join(ranks)} {has} no copy of it, other ranks have")


def _place(rank: Rank, mapping: ParamMapping) -> tuple[int, int]:
    """Return what the ranks that hold a tensor have in common: stage, and index of experts."""
    return rank.pp, rank.ep if mapping.of_experts else 0
