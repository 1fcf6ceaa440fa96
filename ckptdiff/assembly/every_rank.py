"""Look for a tensor on every rank that holds a copy or a shard of it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.errors import MissingShard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.assembly.recipe import Copy
    from ckptdiff.checkpoint import Rank


class RanksWithFiles:
    """The ranks of a checkpoint that have a file, by what those of one tensor have in common.

    Every rank of a pipeline stage holds the stage's tensors; an expert's only those of one expert
    index.
    """

    def __init__(self, ranks: Collection[Rank]) -> None:
        self._sizes = [s for s in ("tp", "pp", "ep") if any(getattr(rank, s) for rank in ranks)]
        self._at: dict[tuple[int, int | None], set[Rank]] = defaultdict(set)
        for rank in ranks:
            self._at[rank.pp, None].add(rank)
            self._at[rank.pp, rank.ep].add(rank)

    def check_all_hold(self, mapping: ParamMapping, copies: Iterable[list[Copy]]) -> None:
        """Raise MissingShard if a rank has none of a tensor that others of its place hold."""
        holders = {copy.rank for each in copies for copy in each}
        places = {(rank.pp, rank.ep if mapping.of_experts else None) for rank in holders}
        lacking = sorted({rank for place in places for rank in self._at[place]} - holders)
        if lacking:
            ranks = [" ".join(f"{s} {getattr(rank, s)}" for s in self._sizes) for rank in lacking]
            has = "has" if len(ranks) == 1 else "have"
            raise MissingShard(f"rank {', '.join(ranks)} {has} no copy of it, other ranks have")
