"""The items as they are listed: in which order, and how far apart each of their answers is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptdiff.scores.paired import distance_of, is_flip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.results import Answer, Answers
    from ckptdiff.scores.results import Item


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
