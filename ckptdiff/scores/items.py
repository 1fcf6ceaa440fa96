"""The items as they are listed: in which order, and how far apart each of their answers is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptdiff.scores.paired import distance_of, is_flip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.results import Answer, Answers
    from ckptdiff.scores.results import Item, Question


def token_ids(question: Question) -> tuple[int, ...]:
    """Return the token ids of a question, context and answer."""
    return tuple(memoryview(question.ids).cast("i").tolist())


def flips_first(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items that the sides choose otherwise, then the others, by distance."""
    return tuple(sorted(items, key=lambda item: (not is_flip(item), -distance_of(item))))


def apart(answers: Answers) -> float:
    """Return |A-B| of one answer's log-likelihood, in nats; infinite if one is no number."""
    return _apart(answers.a, answers.b)


def floor_apart(answers: Answers) -> float:
    """Return the same of A and A's weights in B's arithmetic."""
    return _apart(answers.a, answers.floor)


def _apart(one: Answer, other: Answer) -> float:
    distance = 0.0 if one.loglik == other.loglik else abs(one.loglik - other.loglik)
    return math.inf if math.isnan(distance) else distance


def widest(item: Item) -> int:
    """Return the number of the answer whose logits are furthest apart, from 0."""
    return max(range(len(item.answers)), key=lambda at: item.answers[at].apart, default=0)
