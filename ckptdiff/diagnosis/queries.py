"""Ask workers about contents: small questions, in batches of bytes, answered in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.compose import cut_out
from ckptdiff.assembly.spans import spans_of
from ckptdiff.resharding.shard_pairs import sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.kernels.evidence import Residual

SPAN_BYTES = 4 << 20  # bytes of a content that are in memory at once
BATCH = 16 << 20  # bytes that one job reads
SAMPLED = 1 << 20  # a sample takes as long as so many bytes: its rows lie apart
WHOLE = 64 << 20  # bytes of a content that may be looked at as one
COLUMNS = 64  # by which rows of a vocabulary are told apart
SOME = 512  # by which they are like each other, or not


@dataclass(frozen=True, slots=True)
class ContentQueries:
    """Questions that an executor's workers answer."""

    executor: Executor

    def digests(self, recipes: Sequence[Assembly]) -> list[tuple[bytes, bool]]:
        """Return a digest of a sample of each content, and whether it is too poor for a claim."""
        return self._ask("content_digests", [(_content(sample(r)), SAMPLED) for r in recipes])

    def alike(self, pairs: Sequence[tuple[Assembly, Assembly]]) -> list[bool]:
        """Return of each pair whether every bit is the same."""
        return self._ask(
            "same_contents", [((_content(x), _content(y)), 2 * x.nbytes) for x, y in pairs]
        )

    def rows_that_differ(
        self, pairs: Sequence[tuple[Assembly, Assembly]]
    ) -> list[tuple[int, int, list[int]]]:
        """Return of each pair how many rows there are, how many differ, and some of those."""
        items = [((_content(x), _content(y)), 2 * x.nbytes) for x, y in pairs]
        return self._ask("rows_that_differ", items)

    def residuals(self, items: Sequence[tuple[Assembly, Assembly, str]]) -> list[Residual]:
        """Return how contents differ from the expected ones: expected, actual, dtype."""
        return self._ask(
            "residuals", [((_content(e), _content(a), dtype), BATCH) for e, a, dtype in items]
        )

    def same_numbers(self, one: Sequence[Assembly], other: Sequence[Assembly]) -> bool:
        """Ask whether two lists of contents are the same numbers, in whatever order."""
        tallies = self.tallies([*one, *other])
        return (sum(tallies[: len(one)]) - sum(tallies[len(one) :])) % 2**64 == 0

    def tallies(self, recipes: Sequence[Assembly]) -> list[int]:
        """Return of each content a number that is the same for the same numbers in any order."""
        return self._ask("tallies", [(_content(r), r.nbytes) for r in recipes])

    def match(self, one: Assembly, other: Assembly) -> list[int]:
        """Return for each row of `other` which one of `one` it is; empty for what is too large.

        -1 is none of them, -2 one that is there twice.
        """
        if one.nbytes > WHOLE:
            one, other = (first_columns(recipe) for recipe in (one, other))
        if one.nbytes > 4 * WHOLE:
            return []
        found: list[list[int]] = self._ask("rows", [((_content(one), _content(other)), 1)])
        return found[0]

    def nearest(self, pool: Sequence[Assembly], rows: Assembly) -> list[int]:
        """Return for each row which one of the tensors, one below the other, it is most like."""
        contents = [_content(first_columns(recipe, SOME)) for recipe in pool]
        item = (contents, pool[0].dtype, _content(first_columns(rows, SOME)), rows.dtype)
        found: list[list[int]] = self._ask("nearest", [(item, 1)])
        return found[0]

    def _ask(self, question: str, items: Sequence[tuple[Any, int]]) -> list[Any]:
        futures = []
        batch: list[Any] = []
        size = 0
        for item, nbytes in items:
            if batch and size + nbytes > BATCH:
                futures.append(self.executor.submit(answer, question, batch))
                batch, size = [], 0
            batch.append(item)
            size += nbytes
        if batch:
            futures.append(self.executor.submit(answer, question, batch))
        return [answer for future in futures for answer in future.result()]


def answer(question: str, items: Sequence[Any]) -> list[Any]:
    """Answer a question about contents. Runs in a worker process: it alone touches data."""
    from ckptdiff.kernels import evidence

    found: list[Any] = getattr(evidence, question)(items)
    return found


def _content(recipe: Assembly) -> tuple[Any, ...]:
    return tuple(spans_of(recipe, 0, SPAN_BYTES))


def first_columns(recipe: Assembly, most: int = COLUMNS) -> Assembly:
    """Return the recipe of a matrix's first columns, by which its rows are told apart."""
    rows, columns = recipe.shape
    return cut_out(recipe, ((0, rows), (0, min(most, columns))))
