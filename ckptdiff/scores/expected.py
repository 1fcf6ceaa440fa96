"""What rounding alone makes of a table of accuracies, expected from the floor."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ckptdiff.scores.paired import answers_of, choices_of, margin_of, right_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.scores.results import Item

_MANY = 30  # flips that are expected: from here on their difference is taken as normal


@dataclass(frozen=True, slots=True)
class Expected:
    """What two right programs make on average, of the items that were asked."""

    flips: float  # items in which they choose otherwise
    relative: float | None  # mean of |A-B| / A over tasks; None if no right answer is known


def expected(items: Sequence[Item]) -> Expected | None:
    """Return what rounding alone makes of items with choices; None if there are none.

    An item flips if its margin moves by more than it is, downwards. How far margins move is taken
    from all items: of A's first two answers, between A and A's weights in B's arithmetic, both
    directions being as likely. Flips are taken as independent of each other.
    """
    asked = [item for item in items if choices_of(item) is not None]
    if not asked:
        return None
    moves = sorted(abs(_move(item)) for item in asked)
    chances = {id(item): _chance(margin_of(item), moves) for item in asked}
    by_task = sorted(asked, key=lambda item: item.task)
    shares = [
        share
        for _, same in groupby(by_task, key=lambda item: item.task)
        if (share := _relative(list(same), chances)) is not None
    ]
    relative = sum(shares) / len(shares) if shares else None
    return Expected(math.fsum(chances[id(item)] for item in asked), relative)


def _first_two(item: Item) -> list[int]:
    """Return the numbers of A's first two answers, or of the only one."""
    logliks = [one.a.loglik for one in answers_of(item)]
    return sorted(range(len(logliks)), key=lambda number: -logliks[number])[:2]


def _move(item: Item) -> float:
    """Return by how much the floor moves an item's margin; infinite if it is no number."""
    answers = answers_of(item)
    moves = [answers[n].floor.loglik - answers[n].a.loglik for n in _first_two(item)]
    if len(moves) < 2:
        return 0.0
    move = moves[0] - moves[1]
    return move if math.isfinite(move) else math.inf


def _chance(margin: float, moves: Sequence[float]) -> float:
    """Return how likely a margin moves by more than it is, downwards: half of all larger moves."""
    return (len(moves) - bisect_right(moves, margin)) / len(moves) / 2


def _relative(items: Sequence[Item], chances: dict[int, float]) -> float | None:
    """Return the expected |A-B| / A of one task."""
    right = [both[0] for both in map(right_of, items) if both is not None]
    if len(right) < len(items) or not any(right):
        return None
    lost = math.fsum(chances[id(item)] for item in items if _is_right(item, 0))
    won = math.fsum(chances[id(item)] for item in items if _is_right(item, 1))
    return _mean_distance(won, lost) / sum(right)


def _is_right(item: Item, place: int) -> bool:
    """Return whether A's first, or second, answer is the right one."""
    if place == 0:
        both = right_of(item)
        return both is not None and both[0]
    numbers = _first_two(item)
    return len(numbers) > 1 and numbers[1] == item.target


def _mean_distance(won: float, lost: float) -> float:
    """Return the mean of |W - L|, of independent rare events with these means."""
    if won + lost > _MANY:
        spread, mean = math.sqrt(won + lost), won - lost
        within = mean / spread
        return spread * math.sqrt(2 / math.pi) * math.exp(-(within**2) / 2) + mean * math.erf(
            within / math.sqrt(2)
        )
    return math.fsum(p * q * abs(w - lo) for w, p in _poisson(won) for lo, q in _poisson(lost))


def _poisson(mean: float) -> Iterator[tuple[int, float]]:
    """Yield the numbers of rare events and their chances, as far as those count."""
    chance = math.exp(-mean)
    for number in range(4 * _MANY):
        yield number, chance
        chance *= mean / (number + 1)
