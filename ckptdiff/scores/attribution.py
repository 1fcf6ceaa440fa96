"""What each cause of rounding makes of the distance of one item, the one farthest apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.logits.run import compare_logits, why_no_attribution
from ckptdiff.logits.sides import MOST_TOKENS
from ckptdiff.results import LogitDiff
from ckptdiff.scores.questions import ids_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Budget, CauseShare, LogitProgress
    from ckptdiff.scores.results import Item, Question, ScoreVerdict


@dataclass(frozen=True, slots=True)
class Attributed:
    """The causes of one item's distance, and notes: of which item they are, or why of none."""

    shares: tuple[CauseShare, ...] = ()
    budget: Budget | None = None
    notes: tuple[str, ...] = ()


def attributed(
    pair: tuple[Assembled, Assembled],
    items: Sequence[Item],
    executor: Executor,
    *,
    verdict: ScoreVerdict,
    dtype: str,
    device: str,
    reference: str,
    config: Sequence[ConfigDiff],
) -> Generator[LogitProgress, None, Attributed]:
    """Trace the rounding of the item whose log-likelihoods are farthest apart. Raises a
    CkptDiffError.

    `verdict` and `dtype` are those of the scores. Yields what `compare_logits` does on the way.
    """
    if note := why_no_attribution(verdict, dtype):
        return Attributed(notes=(note,))
    item, question = _farthest(items)
    ids = ids_of(question)[-MOST_TOKENS:]
    events = compare_logits(
        *pair, ids, executor,
        device=device, storage=dtype, reference=reference, attribute=True, config=config,
    )  # fmt: skip
    for event in events:
        if not isinstance(event, LogitDiff):
            yield event
            continue
        if not event.attribution:
            whys = [note for note in event.notes if note.startswith("no attribution")]
            return Attributed(notes=tuple(whys))
        last = "the last " if len(ids) < len(ids_of(question)) else ""
        words = (
            f"the causes are those of item {item.doc} of {item.task}, whose log-likelihoods are "
            f"farthest apart: {last}{len(ids):,} tokens"
        )
        return Attributed(event.attribution, event.budget, (words,))
    raise AssertionError("a comparison ends with its result")


def _farthest(items: Sequence[Item]) -> tuple[Item, Question]:
    """Return the item, and its question, of the log-likelihoods that are farthest apart."""
    pairs = (
        (abs(answers.a.loglik - answers.b.loglik), item, question)
        for item in items
        for question, answers in zip(item.questions, item.answers, strict=True)
    )
    _, item, question = max(pairs, key=lambda one: one[0])
    return item, question
