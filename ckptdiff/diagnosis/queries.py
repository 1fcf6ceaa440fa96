"""Ask worker processes about the contents of recipes; answers come in the order asked."""

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

SPAN_BYTES = 4 << 20  # of a content, in a worker's memory at once
JOB_BYTES = 16 << 20  # that one job reads
SAMPLE_COST = 1 << 20  # bytes that read as long as a sample does: its rows lie apart
MAX_WHOLE_BYTES = 64 << 20  # of a tensor whose rows are matched with all their columns
IDENTITY_COLUMNS = 64  # by which equal rows of a larger tensor are found
DIRECTION_COLUMNS = 512  # by which the cosine of two rows is taken


@dataclass(frozen=True, slots=True)
class ContentQueries:
    """Questions about recipes, in jobs of about `JOB_BYTES`. Raises what a worker raises."""

    executor: Executor

    def digests(self, recipes: Sequence[Assembly]) -> list[tuple[bytes, bool]]:
        """Return (digest of a sample of rows, whether all its elements are equal) of each content.

        Contents with equal elements only, all zeros for example, say nothing of their origin.
        """
        return self._ask("content_digests", [(_content(sample(r)), SAMPLE_COST) for r in recipes])

    def are_equal(self, pairs: Sequence[tuple[Assembly, Assembly]]) -> list[bool]:
        """Return whether every bit is the same, for each pair of contents."""
        return self._ask(
            "same_contents", [((_content(x), _content(y)), 2 * x.nbytes) for x, y in pairs]
        )

    def rows_that_differ(
        self, pairs: Sequence[tuple[Assembly, Assembly]]
    ) -> list[tuple[int, int, list[int]]]:
        """Return (number of rows, number that differ, some that differ) for each pair."""
        items = [((_content(x), _content(y)), 2 * x.nbytes) for x, y in pairs]
        return self._ask("rows_that_differ", items)

    def residuals(self, items: Sequence[tuple[Assembly, Assembly, str]]) -> list[Residual]:
        """Return how each actual content differs; items are (expected, actual, dtype of both)."""
        return self._ask(
            "residuals", [((_content(e), _content(a), dtype), JOB_BYTES) for e, a, dtype in items]
        )

    def have_same_elements(self, one: Sequence[Assembly], other: Sequence[Assembly]) -> bool:
        """Return whether two lists of contents have the same elements, in any order."""
        tallies = self.tallies([*one, *other])
        return (sum(tallies[: len(one)]) - sum(tallies[len(one) :])) % 2**64 == 0

    def tallies(self, recipes: Sequence[Assembly]) -> list[int]:
        """Return a checksum of each content, below 2**64, that no order of elements changes."""
        return self._ask("tallies", [(_content(r), r.nbytes) for r in recipes])

    def match_rows(self, one: Assembly, other: Assembly) -> list[int]:
        """Return for each row of `other` the row of `one` that it equals.

        -1 stands for no such row, -2 for several. Empty if the tensors are too large.
        """
        if one.nbytes > MAX_WHOLE_BYTES:
            one, other = (first_columns(recipe) for recipe in (one, other))
        if one.nbytes > 4 * MAX_WHOLE_BYTES:
            return []
        found: list[list[int]] = self._ask("rows", [((_content(one), _content(other)), 1)])
        return found[0]

    def nearest_rows(self, pool: Sequence[Assembly], rows: Assembly) -> list[int]:
        """Return for each row the nearest one, by direction, of the concatenated tensors of `pool`.

        -1 stands for none that is near, or for two that are about as near.
        """
        contents = [_content(first_columns(recipe, DIRECTION_COLUMNS)) for recipe in pool]
        item = (
            contents,
            pool[0].dtype,
            _content(first_columns(rows, DIRECTION_COLUMNS)),
            rows.dtype,
        )
        found: list[list[int]] = self._ask("nearest", [(item, 1)])
        return found[0]

    def _ask(self, question: str, items: Sequence[tuple[Any, int]]) -> list[Any]:
        """Return the answers of a function of `kernels.evidence`; items are (item, its bytes)."""
        futures = []
        batch: list[Any] = []
        size = 0
        for item, nbytes in items:
            if batch and size + nbytes > JOB_BYTES:
                futures.append(self.executor.submit(answer, question, batch))
                batch, size = [], 0
            batch.append(item)
            size += nbytes
        if batch:
            futures.append(self.executor.submit(answer, question, batch))
        return [answer for future in futures for answer in future.result()]


def answer(question: str, items: Sequence[Any]) -> list[Any]:
    """Call a function of `kernels.evidence`. Runs in a worker: only there is data read."""
    from ckptdiff.kernels import evidence

    found: list[Any] = getattr(evidence, question)(items)
    return found


def _content(recipe: Assembly) -> tuple[Any, ...]:
    """Return the spans by which a worker reads a recipe."""
    return tuple(spans_of(recipe, 0, SPAN_BYTES))


def first_columns(recipe: Assembly, most: int = IDENTITY_COLUMNS) -> Assembly:
    """Return the recipe of the first columns of a matrix, at most `most`."""
    rows, columns = recipe.shape
    return cut_out(recipe, ((0, rows), (0, min(most, columns))))
