"""What both sides' answers to the same items tell, item by item: distances, flips, paired tests.

A choice is the raw one, of the largest log-likelihood: what lm-eval's `acc` goes by. `acc_norm`
divides by the answer's length first and may choose another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from ckptdiff.scores.results import Paired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import Answers
    from ckptdiff.scores.results import Item

QUOTED = 0.0015  # mean of |A-B| / A that NVIDIA's page on Llama 2 gives
SIGNIFICANCE, POWER = 0.05, 0.8  # two-sided; usual in planning
_PERCENTILE = 99  # of the distances, for the items that could flip


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances of log-likelihoods in nats; of an item with choices, that of its worst answer."""

    items: int
    largest: float  # of A and B
    median: float
    floor_largest: float  # of A and A's weights in B's arithmetic
    floor_median: float


@dataclass(frozen=True, slots=True)
class Needed:
    """How many items it takes to see a relative difference of accuracies, 4 times of 5."""

    relative: float  # |A-B| / A
    accuracy: float  # of A, over the items whose right answer is known
    alone: float  # share of those items in which one side alone is right, as measured
    paired: int  # the same items asked of both
    unpaired: int  # items a side, if each side is asked others


# ── one item ─────────────────────────────────────────────────────────────────────────────────────


def answers_of(item: Item) -> tuple[Answers, ...]:
    """Return the answers that an item's choice is made of.

    For `acc_mutual_info`, lm-eval asks each answer once more, without the question.
    """
    return item.answers[: len(item.choices)] if item.kind == "choices" else item.answers


def choose(logliks: Sequence[float]) -> int:
    """Return the number of the largest, the first of equal ones; of NaNs the first, as argmax."""
    for number, value in enumerate(logliks):
        if math.isnan(value):
            return number
    return max(range(len(logliks)), key=logliks.__getitem__)


def choices_of(item: Item) -> tuple[int, int] | None:
    """Return the numbers of the answers that A and B choose; None for an item without choices."""
    answers = answers_of(item)
    if item.kind != "choices" or not answers:
        return None
    return choose([one.a.loglik for one in answers]), choose([one.b.loglik for one in answers])


def is_flip(item: Item) -> bool:
    """Return whether the sides choose otherwise."""
    chosen = choices_of(item)
    return chosen is not None and chosen[0] != chosen[1]


def margin_of(item: Item) -> float:
    """Return by how many nats A's first answer leads its second; infinite if there is but one."""
    logliks = sorted((one.a.loglik for one in answers_of(item)), reverse=True)
    if any(map(math.isnan, logliks)):
        return 0.0
    if len(logliks) < 2:
        return math.inf
    return 0.0 if logliks[0] == logliks[1] else logliks[0] - logliks[1]


def distance_of(item: Item, other: str = "b") -> float:
    """Return how far A's log-likelihoods are from those of `b`, or of the `floor`, in nats."""
    pairs = [(one.a.loglik, getattr(one, other).loglik) for one in answers_of(item)]
    if item.kind != "choices":  # windows of one text: its log-likelihood is their sum
        pairs = [(sum(a for a, _ in pairs), sum(b for _, b in pairs))]
    return max((_apart(a, b) for a, b in pairs), default=0.0)


def _apart(a: float, b: float) -> float:
    if a == b:
        return 0.0
    distance = abs(a - b)
    return math.inf if math.isnan(distance) else distance


def right_of(item: Item) -> tuple[bool, bool] | None:
    """Return whether A and B choose the right answer; None where that is not known.

    lm-eval's `acc` goes first: more than one answer may be right.
    """
    found = [dict(scores).get("acc") for scores in (item.scores_a, item.scores_b)]
    if all(value in (0.0, 1.0) for value in found):
        return found[0] == 1.0, found[1] == 1.0
    chosen = choices_of(item)
    if chosen is None or item.target is None:
        return None
    return chosen[0] == item.target, chosen[1] == item.target


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


def distances(items: Sequence[Item]) -> Distances | None:
    """Return how far apart the sides are over all answered items, of every kind; None of none."""
    answered = [item for item in items if item.answers]
    if not answered:
        return None
    of_b = [distance_of(item) for item in answered]
    of_floor = [distance_of(item, "floor") for item in answered]
    return Distances(len(answered), max(of_b), median(of_b), max(of_floor), median(of_floor))


def paired(items: Sequence[Item]) -> Paired | None:
    """Return what the items with choices tell, each asked of both sides; None if there are none."""
    asked = [item for item in items if choices_of(item) is not None]
    apart = distances(asked)
    if apart is None:
        return None
    near = 2 * _percentile([distance_of(item) for item in asked])
    flips = [item for item in asked if is_flip(item)]
    right = [both for both in map(right_of, asked) if both is not None]
    a_alone = sum(a and not b for a, b in right)
    b_alone = sum(b and not a for a, b in right)
    stderr_paired, stderr_unpaired = _stderrs(right)
    return Paired(
        items=len(asked),
        largest=apart.largest,
        median=apart.median,
        floor_largest=apart.floor_largest,
        floor_median=apart.floor_median,
        agree=len(asked) - len(flips),
        flips=len(flips),
        flips_within=sum(margin_of(item) <= 2 * apart.floor_largest for item in flips),
        could_flip=sum(margin_of(item) < near for item in asked),
        a_alone_right=a_alone,
        b_alone_right=b_alone,
        mcnemar=mcnemar(a_alone, b_alone),
        difference=(a_alone - b_alone) / len(right) if right else math.nan,
        stderr_paired=stderr_paired,
        stderr_unpaired=stderr_unpaired,
        effective_items=_effective(len(right), stderr_paired, stderr_unpaired),
    )


def mcnemar(a_alone: int, b_alone: int) -> float:
    """Return the two-sided exact p of McNemar's test: were both counts drawn with a fair coin?

    `scipy.stats.binomtest(a_alone, a_alone + b_alone).pvalue`; 1 if both are 0.
    """
    both = a_alone + b_alone
    term = total = 1  # ways to have 0 of them, and up to the smaller count
    for number in range(min(a_alone, b_alone)):
        term = term * (both - number) // (number + 1)
        total += term
    return 1.0 if 2 * total >= 2**both else 2 * total / 2**both


def _stderrs(right: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """Return the standard errors of the difference of accuracies, paired and unpaired.

    From variances with n-1 below, as lm-eval's own. They cannot be told from one item.
    """
    count = len(right)
    if count < 2:
        return math.nan, math.nan
    mean_a, mean_b = (sum(both[side] for both in right) / count for side in (0, 1))
    squares = sum(a != b for a, b in right) - count * (mean_a - mean_b) ** 2
    unpaired = (mean_a * (1 - mean_a) + mean_b * (1 - mean_b)) / (count - 1)
    return math.sqrt(max(squares, 0.0) / (count - 1) / count), math.sqrt(unpaired)


def _effective(count: int, stderr_paired: float, stderr_unpaired: float) -> float:
    """Return how many unpaired items would give the paired standard error."""
    if not stderr_paired:
        return math.inf if stderr_unpaired else math.nan
    return count * (stderr_unpaired / stderr_paired) ** 2


def _percentile(values: Sequence[float]) -> float:
    """Return the smallest value that 99 % of the values do not exceed."""
    return sorted(values)[-(-_PERCENTILE * len(values) // 100) - 1]


# ── how many items it takes ──────────────────────────────────────────────────────────────────────


def needed(items: Sequence[Item], relative: float = QUOTED) -> Needed | None:
    """Return how many items like these it takes to see a relative difference of the accuracies.

    None where no right answer is known, or A has none right.
    """
    asked = (item for item in items if choices_of(item) is not None)
    right = [both for both in map(right_of, asked) if both is not None]
    if not any(a for a, _ in right):
        return None
    accuracy = sum(a for a, _ in right) / len(right)
    alone = sum(a != b for a, b in right) / len(right)
    return Needed(relative, accuracy, alone, *items_needed(accuracy, alone, relative))


def items_needed(accuracy: float, alone: float, relative: float = QUOTED) -> tuple[int, int]:
    """Return how many items show that accuracies p and p (1 - r) differ, paired and unpaired.

    With d = p r, at a two-sided level of 5 % and a power of 80 % (z = 1.96, w = 0.84):

    - the same items asked of both, one side alone right in a share s of them, which is at least d:
      (z √s + w √(s - d²))² / d². R. J. Connor, "Sample size for testing differences in proportions
      for the paired-sample design", Biometrics 43 (1987), 207-211.
    - other items asked of each side, with q the mean of both accuracies, items a side:
      (z √(2 q (1-q)) + w √(p (1-p) + (p-d) (1-p+d)))² / d². J. L. Fleiss, "Statistical Methods for
      Rates and Proportions", 2nd edition (1981), chapter 3, without its correction for continuity.
    """
    z, w = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2), NormalDist().inv_cdf(POWER)
    apart = accuracy * relative
    share, other, mean = max(alone, apart), accuracy - apart, accuracy - apart / 2
    one = z * math.sqrt(share) + w * math.sqrt(share - apart**2)
    two = z * math.sqrt(2 * mean * (1 - mean)) + w * math.sqrt(
        accuracy * (1 - accuracy) + other * (1 - other)
    )
    return math.ceil((one / apart) ** 2), math.ceil((two / apart) ** 2)
