"""Find which known mistakes give just what the ranks of a tensor hold.

Some layouts have a piece for every row, so that a recipe of the whole is dear to make, and there
are dozens of them. So each is first asked what it puts into a few of the rows that differ: its
pieces are made only as far as those rows, and all are compared in one question. Only what fits
there is made and compared as a whole, and of two ways to the same pieces only one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes, pairs_of_mistakes
from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.resharding.shard_pairs import chosen_rows
from ckptdiff.resharding.to_megatron import recipe_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.checkpoint import Box
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

    Placed = tuple[str | None, Box, Box]  # box `of` of a tensor of A fills box `box` of a shard

FEW_ROWS, FEW_ELEMENTS = 4, 16  # in which a mistake is looked at first; elements of a vector


@dataclass(frozen=True, slots=True)
class MistakeSearch:
    """The ranks of one tensor, and by which mistakes they can have come to hold what they do."""

    grid: ShardGrid
    ask: ContentQueries
    wrong: Mapping[ShardPair, list[int]]  # some of the rows that differ
    pairs: list[
        tuple[ShardPair, ShardPair]
    ]  # each rank's place, and the one whose content belongs there

    def right(self, usual: Collection[str]) -> list[Mistake]:
        """Return the mistakes that give what all ranks hold, the likeliest first.

        If some of the `usual` keys are among them, only these.
        """
        rule = self.pairs[0][0].rule
        known = list(mistakes(rule, self.grid.config, self.grid.size(rule)))
        right = self._right([m for m in known if m.key in usual]) or self._right(known)
        if right:
            return right
        both = list(pairs_of_mistakes(rule, self.grid.config, self.grid.size(rule)))
        # Two permutations take long to be made one, and are one.
        same = bool(both) and self._has_same_numbers()
        return self._right([m for m in both if m.permutes == same])

    def _right(self, tried: list[Mistake]) -> list[Mistake]:
        """Return which of some mistakes give what all ranks hold."""
        fitting = self._fitting(tried) if tried else []
        if not all(m.permutes for m in fitting):
            same = self._has_same_numbers()
            fitting = [m for m in fitting if m.permutes == same]
        if not fitting:
            return []
        actual = [digest for digest, _ in self.ask.digests([p.actual for p, _ in self.pairs])]
        right: list[Mistake] = []
        first: list[list[Placed]] = []
        for mistake in fitting:
            pieces = [list(pieces_by(mistake, origin, self.grid)) for _, origin in self.pairs]
            # Another way to the same pieces leaves the same bytes: nothing is read for it.
            if right and pieces == first:
                right.append(mistake)
            elif self._is_right(mistake, pieces, actual):
                first = first or pieces
                right.append(mistake)
        return right

    def _is_right(
        self, mistake: Mistake, pieces: Iterable[list[Placed]], actual: list[bytes]
    ) -> bool:
        """Ask whether a mistake, with its pieces, gives what all ranks hold, of these digests."""
        made = []
        for (place, origin), found in zip(self.pairs, pieces, strict=True):
            recipe = recipe_by(mistake, place, origin, self.grid, found)
            if recipe is None:
                return False
            made.append(recipe)
        digests = self.ask.digests(made)
        if [d for d, _ in digests] != actual or all(poor for _, poor in digests):
            return False
        return all(
            self.ask.alike([(e, p.actual) for e, (p, _) in zip(made, self.pairs, strict=True)])
        )

    def _fitting(self, tried: list[Mistake]) -> list[Mistake]:
        """Return the mistakes that give a few of the rows that differ, in one rank."""
        place, origin = next((x for x in self.pairs if x[0] in self.wrong), self.pairs[0])
        rows = list(range(place.actual.shape[0]))
        if len(place.actual.shape) > 1:
            rows = self.wrong.get(place) or rows
        few = FEW_ROWS if len(place.actual.shape) > 1 else FEW_ELEMENTS
        # The first ones are soon reached, and rule nearly all out; the others lie everywhere.
        for chosen in (rows[:few], rows[:: -(-len(rows) // few)]):
            held = chosen_rows(place.actual, chosen)
            recipes = ((m, self._at_rows(place, origin, m, chosen)) for m in tried)
            made = [(m, recipe) for m, recipe in recipes if recipe is not None]
            fits = self.ask.alike([(recipe, held) for _, recipe in made])
            tried = [m for (m, _), is_alike in zip(made, fits, strict=True) if is_alike]
            if len(tried) < 2:
                break
        return tried

    def _at_rows(
        self, place: ShardPair, origin: ShardPair, mistake: Mistake, rows: list[int]
    ) -> Assembly | None:
        """Return what a mistake puts into some rows of a place; None if it cannot be."""
        shape = (len(rows), *place.actual.shape[1:])
        parts = []
        missing = prod(shape)
        for source, of, box in pieces_by(mistake, origin, self.grid):
            assert source is not None  # no mistake is known of a vocabulary
            for i, row in enumerate(rows):
                if box[0][0] <= row < box[0][1]:
                    at = of[0][0] + row - box[0][0]
                    whole = self.grid.a.tensors[source]
                    if mistake.rule.transposed:
                        whole = transpose(whole)
                    parts.append(RecipePart(whole, ((at, at + 1), *of[1:]), ((i, i + 1), *box[1:])))
                    missing -= prod(stop - start for start, stop in box[1:])
            if missing == 0:
                return compose(place.name, shape, place.actual.dtype, parts)
        return None

    def _has_same_numbers(self) -> bool:
        """Ask whether the ranks hold just the numbers that belong there, in whatever order."""
        return self.ask.same_numbers(
            [origin.expected for _, origin in self.pairs], [p.actual for p, _ in self.pairs]
        )


def pieces_by(mistake: Mistake, origin: ShardPair, grid: ShardGrid) -> Iterator[Placed]:
    """Yield which boxes of A's tensors a place holds if the mistake was made with `origin`'s."""
    share = origin.share
    shapes = {name: grid.a.tensors[name].shape for name in share.hf}
    size = grid.size(origin.rule)
    return mistake.pieces(share.hf, shapes, grid.config, size, share.rank)


def recipe_by(
    mistake: Mistake,
    place: ShardPair,
    origin: ShardPair,
    grid: ShardGrid,
    pieces: list[Placed] | None = None,
) -> Assembly | None:
    """Return what a place holds if the mistake was made with `origin`'s; None if it cannot be."""
    pieces = list(pieces_by(mistake, origin, grid)) if pieces is None else pieces
    if not pieces:
        return None
    share = replace(origin.share, pieces=pieces, rule=mistake.rule)
    made = replace(recipe_of(share, grid.a.tensors), dtype=place.actual.dtype)
    return made if made.shape == place.actual.shape else None
