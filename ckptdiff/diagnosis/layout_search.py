"""Find the known mistakes that explain, byte for byte, the content of a tensor's ranks.

There are dozens of mistaken layouts, and the recipe of one may have a piece for every row. So each
is first tried on a few of the rows that differ, with pieces made only as far as those rows. Only
layouts that fit there are made and compared whole; of two with the same pieces, only one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes, pairs_of_mistakes
from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.diagnosis.thresholds import PROBE_ELEMENTS, PROBE_ROWS
from ckptdiff.resharding.shard_pairs import chosen_rows
from ckptdiff.resharding.to_megatron import recipe_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.checkpoint import Box
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

    Piece = tuple[str | None, Box, Box]  # tensor of A, a box of it, the box of the shard it fills


@dataclass(frozen=True, slots=True)
class MistakeSearch:
    """A search for the mistakes that explain the content of all ranks of one tensor."""

    grid: ShardGrid
    ask: ContentQueries
    wrong: Mapping[ShardPair, list[int]]  # some of the rows that differ
    # Each rank's pair, and the one whose content is assumed to have been written there.
    by_rank: list[tuple[ShardPair, ShardPair]]

    def right(self, usual: Collection[str]) -> list[Mistake]:
        """Return the mistakes, single or in pairs, that explain all ranks, the likeliest first.

        `usual` are keys of mistakes found in other layers: if some of them explain the ranks, only
        those are returned.
        """
        rule = self.by_rank[0][0].rule
        known = list(mistakes(rule, self.grid.config, self.grid.size(rule)))
        right = self._explaining([m for m in known if m.key in usual]) or self._explaining(known)
        if right:
            return right
        both = list(pairs_of_mistakes(rule, self.grid.config, self.grid.size(rule)))
        # Composing two permutations is slow: elements that are no permutation rule them out first.
        permuted = bool(both) and self._has_same_elements()
        return self._explaining([m for m in both if m.permutes == permuted])

    def _explaining(self, tried: list[Mistake]) -> list[Mistake]:
        """Return the mistakes that explain the content of all ranks."""
        fitting = self._fitting(tried) if tried else []
        if not all(m.permutes for m in fitting):
            permuted = self._has_same_elements()
            fitting = [m for m in fitting if m.permutes == permuted]
        if not fitting:
            return []
        actual = [digest for digest, _ in self.ask.digests([p.actual for p, _ in self.by_rank])]
        right: list[Mistake] = []
        first: list[list[Piece]] = []
        for mistake in fitting:
            pieces = [list(pieces_by(mistake, origin, self.grid)) for _, origin in self.by_rank]
            # Equal pieces give equal bytes: nothing is read for them.
            if right and pieces == first:
                right.append(mistake)
            elif self._explains(mistake, pieces, actual):
                first = first or pieces
                right.append(mistake)
        return right

    def _explains(
        self, mistake: Mistake, pieces: Iterable[list[Piece]], actual: list[bytes]
    ) -> bool:
        """Return whether a mistake explains the content of all ranks; `actual` are its digests."""
        made = []
        for (pair, origin), found in zip(self.by_rank, pieces, strict=True):
            recipe = recipe_by(mistake, pair, origin, self.grid, found)
            if recipe is None:
                return False
            made.append(recipe)
        digests = self.ask.digests(made)
        if [d for d, _ in digests] != actual or all(poor for _, poor in digests):
            return False
        return all(
            self.ask.are_equal(
                [(e, p.actual) for e, (p, _) in zip(made, self.by_rank, strict=True)]
            )
        )

    def _fitting(self, tried: list[Mistake]) -> list[Mistake]:
        """Return the mistakes that give a few of the differing rows of one rank."""
        pair, origin = next((x for x in self.by_rank if x[0] in self.wrong), self.by_rank[0])
        rows = list(range(pair.actual.shape[0]))
        if len(pair.actual.shape) > 1:
            rows = self.wrong.get(pair) or rows
        few = PROBE_ROWS if len(pair.actual.shape) > 1 else PROBE_ELEMENTS
        # The first rows need few pieces and rule out nearly all; the others are spread evenly.
        for chosen in (rows[:few], rows[:: -(-len(rows) // few)]):
            held = chosen_rows(pair.actual, chosen)
            recipes = ((m, self._at_rows(pair, origin, m, chosen)) for m in tried)
            made = [(m, recipe) for m, recipe in recipes if recipe is not None]
            fits = self.ask.are_equal([(recipe, held) for _, recipe in made])
            tried = [m for (m, _), is_alike in zip(made, fits, strict=True) if is_alike]
            if len(tried) < 2:
                break
        return tried

    def _at_rows(
        self, pair: ShardPair, origin: ShardPair, mistake: Mistake, rows: list[int]
    ) -> Assembly | None:
        """Return the rows of a shard as a mistake gives them; None if its shapes do not fit."""
        shape = (len(rows), *pair.actual.shape[1:])
        parts = []
        missing = prod(shape)
        for source, of, box in pieces_by(mistake, origin, self.grid):
            assert (
                source is not None
            )  # only a vocabulary has padding, and no mistake is tried on one
            for i, row in enumerate(rows):
                if box[0][0] <= row < box[0][1]:
                    at = of[0][0] + row - box[0][0]
                    whole = self.grid.a.tensors[source]
                    if mistake.rule.transposed:
                        whole = transpose(whole)
                    parts.append(RecipePart(whole, ((at, at + 1), *of[1:]), ((i, i + 1), *box[1:])))
                    missing -= prod(stop - start for start, stop in box[1:])
            if missing == 0:
                return compose(pair.name, shape, pair.actual.dtype, parts)
        return None

    def _has_same_elements(self) -> bool:
        """Return whether the ranks together hold the expected elements, in any order."""
        return self.ask.have_same_elements(
            [origin.expected for _, origin in self.by_rank], [p.actual for p, _ in self.by_rank]
        )


def pieces_by(mistake: Mistake, origin: ShardPair, grid: ShardGrid) -> Iterator[Piece]:
    """Yield the pieces that a mistake makes of the content of `origin`."""
    shapes = {name: grid.a.tensors[name].shape for name in origin.hf_names}
    size = grid.size(origin.rule)
    return mistake.pieces(origin.hf_names, shapes, grid.config, size, origin.tp_rank)


def recipe_by(
    mistake: Mistake,
    pair: ShardPair,
    origin: ShardPair,
    grid: ShardGrid,
    pieces: list[Piece] | None = None,
) -> Assembly | None:
    """Return the shard `pair` as a mistake makes it of the content of `origin`.

    None if the mistake gives no pieces, or another shape.
    """
    pieces = list(pieces_by(mistake, origin, grid)) if pieces is None else pieces
    if not pieces:
        return None
    rank_slice = replace(origin.rank_slice, pieces=pieces, rule=mistake.rule)
    made = replace(recipe_of(rank_slice, grid.a.tensors), dtype=pair.actual.dtype)
    return made if made.shape == pair.actual.shape else None
