"""What rounding is expected to make of a table: against throws of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckptdiff.scores.expected import expected
from tests.support.score_results import RIGHT, item, rolling

if TYPE_CHECKING:
    from ckptdiff.scores.results import Item


def asked(count: int, noise: float, seed: int = 0) -> list[Item]:
    """Return items of random margins, and a floor of random rounding."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        a = np.sort(random.normal(-3, 1, 4))[::-1]
        floor = a + random.normal(0, noise, 4)
        target = int(random.choice(4, p=(0.5, 0.2, 0.2, 0.1)))
        made.append(item([*a], [*floor], target, [*floor], doc=n))
    return made


def thrown(items: list[Item], noise: float, times: int) -> tuple[float, float]:
    """Return the mean number of flips, and of |A-B| / A, of fresh rounding."""
    random = np.random.default_rng(1)
    a = np.array([[one.a.loglik for one in each.answers] for each in items])
    target = np.array([each.target for each in items])
    flips, apart = [], []
    for _ in range(times):
        b = a + random.normal(0, noise, a.shape)
        mine, other = a.argmax(1), b.argmax(1)
        flips.append((mine != other).sum())
        right = (mine == target).sum()
        apart.append(abs(int(right) - int((other == target).sum())) / right)
    return float(np.mean(flips)), float(np.mean(apart))


@pytest.mark.parametrize(("count", "noise"), [(2000, 0.002), (2000, 0.02), (4000, 0.1)])
def test_it_is_what_throws_of_rounding_make(count: int, noise: float) -> None:
    items = asked(count, noise)
    found = expected(items)
    assert found is not None
    flips, apart = thrown(items, noise, 400)
    assert found.flips == pytest.approx(flips, rel=0.2)
    assert found.relative == pytest.approx(apart, rel=0.25)


def test_no_rounding_makes_nothing() -> None:
    found = expected([item(RIGHT), item((-1.0, -1.0)), item((-1.0,))])
    assert found is not None
    assert (found.flips, found.relative) == (0, 0)


def test_what_cannot_be_expected_is_not() -> None:
    assert expected([]) is None
    assert expected([rolling((-1.0,), (-2.0,))]) is None
    found = expected([item(RIGHT, target=None)])
    assert found is not None
    assert found.relative is None
    broken = expected([item(RIGHT, floor=(math.nan, -1.0)), item((math.nan, -1.0))])
    assert broken is not None
    assert math.isfinite(broken.flips)


def test_the_mean_is_over_tasks() -> None:
    quiet = [item((-1.0, -9.0), task="quiet") for _ in range(10)]
    loud = [item((-1.0, -1.5), floor=(-1.0, -0.5), task="loud") for _ in range(10)]
    found = expected([*quiet, *loud])
    assert found is not None
    # Half of the moves are 1, half of those go down: a quarter of the loud items flip.
    assert found.flips == pytest.approx(2.5)
    assert found.relative == pytest.approx((2.5 / 10 + 0) / 2)
