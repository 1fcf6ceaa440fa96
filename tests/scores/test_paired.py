"""Numbers of paired items: against numpy, scipy, published examples, and cases by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.scores.paired import (
    choices_of,
    choose,
    distance_of,
    distances,
    is_flip,
    items_needed,
    margin_of,
    mcnemar,
    needed,
    paired,
    right_of,
)
from tests.support.score_results import RIGHT, WRONG, answers, item, marked, rolling

INF, NAN = math.inf, math.nan
LOGLIKS = st.lists(
    st.one_of(st.floats(-50, 0), st.sampled_from([-1.0, -2.0, -INF, NAN])), min_size=1, max_size=5
)


# ── one item ─────────────────────────────────────────────────────────────────────────────────────


@given(LOGLIKS)
def test_a_choice_is_the_one_that_lm_eval_takes(logliks: list[float]) -> None:
    assert choose(logliks) == int(np.argmax(np.array(logliks)))


def test_the_first_of_equal_answers_is_chosen_and_its_margin_is_nothing() -> None:
    tied = item((-1.0, -1.0, -3.0), (-1.1, -1.0, -3.0))
    assert choices_of(tied) == (0, 1)
    assert is_flip(tied)
    assert margin_of(tied) == 0


def test_a_margin_is_that_of_the_first_two() -> None:
    assert margin_of(item((-3.0, -1.0, -1.5))) == 0.5
    assert margin_of(item((-1.0,))) == INF  # one choice cannot flip
    assert margin_of(item((-1.0, -INF))) == INF
    assert margin_of(item((-INF, -INF))) == 0
    assert margin_of(item((-1.0, NAN))) == 0


def test_a_distance_is_that_of_the_worst_answer() -> None:
    both = item((-1.0, -2.0), (-1.25, -4.0), floor=(-1.0, -2.5))
    assert distance_of(both) == 2.0
    assert distance_of(both, "floor") == 0.5
    assert distance_of(item((-INF, -1.0), (-INF, -1.0))) == 0
    assert distance_of(item((-INF, -1.0), (-5.0, -1.0))) == INF
    assert distance_of(item((NAN, -1.0), (NAN, -1.0))) == INF  # no numbers are never close


def test_windows_of_a_text_are_one_log_likelihood() -> None:
    text = rolling((-100.0, -50.0), (-101.0, -49.5))
    assert distance_of(text) == 0.5
    assert choices_of(text) is None
    assert not is_flip(text)


def test_answers_asked_without_the_question_are_no_choices() -> None:
    mutual = item((-2.0, -1.0, -0.1, -0.2), choices=("yes", "no"))
    assert choices_of(mutual) == (1, 1)
    assert margin_of(mutual) == 1.0


def test_what_is_right_is_what_lm_eval_says_where_it_does() -> None:
    assert right_of(item(RIGHT, WRONG)) == (True, False)
    assert right_of(item(RIGHT, WRONG, target=None)) is None
    many = item(RIGHT, WRONG, target=None, scores_a=(("acc", 1.0),), scores_b=(("acc", 1.0),))
    assert right_of(many) == (True, True)
    share = item(RIGHT, WRONG, scores_a=(("acc", 0.7),), scores_b=(("acc", 0.6),))
    assert right_of(share) == (True, False)  # a share of probability is no right or wrong


def test_a_choice_by_length_is_another_matter() -> None:
    a, b = (("acc", 1.0), ("acc_norm", 0.0)), (("acc", 1.0), ("acc_norm", 1.0))
    one = item(RIGHT, RIGHT, scores_a=a, scores_b=b)
    assert not is_flip(one)
    assert right_of(one) == (True, True)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


def test_no_items_tell_nothing() -> None:
    assert paired([]) is None
    assert distances([]) is None
    assert needed([]) is None
    assert paired([rolling((-1.0,), (-2.0,))]) is None
    assert distances([item((), choices=())]) is None


def test_equal_sides_have_no_distance_and_no_error() -> None:
    pair = paired(marked(60, 0, 0, 40))
    assert pair is not None
    assert (pair.items, pair.agree, pair.flips, pair.flips_within, pair.could_flip) == (
        100,
        100,
        0,
        0,
        0,
    )
    assert (pair.largest, pair.median, pair.difference, pair.stderr_paired) == (0, 0, 0, 0)
    assert pair.mcnemar == 1
    assert pair.effective_items == INF


@given(st.tuples(*[st.integers(0, 12)] * 4).filter(lambda counts: sum(counts) > 1))
def test_errors_are_those_of_numpy(counts: tuple[int, int, int, int]) -> None:
    pair = paired(marked(*counts))
    assert pair is not None
    both, a_alone, b_alone, neither = counts
    a = np.array([1] * both + [1] * a_alone + [0] * b_alone + [0] * neither, dtype=float)
    b = np.array([1] * both + [0] * a_alone + [1] * b_alone + [0] * neither, dtype=float)
    errors = [np.std(side, ddof=1) / math.sqrt(len(side)) for side in (a - b, a, b)]
    assert pair.difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
    assert pair.stderr_paired == pytest.approx(errors[0], abs=1e-9)
    assert pair.stderr_unpaired == pytest.approx(math.hypot(errors[1], errors[2]), abs=1e-9)
    assert (pair.a_alone_right, pair.b_alone_right) == (a_alone, b_alone)
    if pair.stderr_paired:
        effective = len(a) * (errors[1] ** 2 + errors[2] ** 2) / errors[0] ** 2
        assert pair.effective_items == pytest.approx(effective, rel=1e-6)


def test_pairing_is_worth_what_the_unpaired_error_would_need() -> None:
    pair = paired(marked(500, 6, 4, 490))
    assert pair is not None
    # An unpaired error falls with the root of the number of items.
    at_that_many = pair.stderr_unpaired * math.sqrt(pair.items / pair.effective_items)
    assert at_that_many == pytest.approx(pair.stderr_paired)
    assert pair.effective_items > 20 * pair.items


def test_one_item_has_no_standard_error() -> None:
    pair = paired([item(RIGHT, WRONG)])
    assert pair is not None
    assert pair.difference == 1
    assert math.isnan(pair.stderr_paired)
    assert math.isnan(pair.stderr_unpaired)
    assert math.isnan(pair.effective_items)


def test_items_without_a_right_answer_are_no_part_of_the_test() -> None:
    unknown = [item(RIGHT, WRONG, target=None)] * 3
    pair = paired(unknown)
    assert pair is not None
    assert (pair.items, pair.flips, pair.a_alone_right) == (3, 3, 0)
    assert math.isnan(pair.difference)
    pair = paired([*unknown, *marked(1, 1, 0, 0)])
    assert pair is not None
    assert (pair.items, pair.flips, pair.difference) == (5, 4, 0.5)


def test_a_flip_is_beyond_the_margin_that_the_floor_cannot_close() -> None:
    floor = item((-1.0, -9.0), floor=(-1.0, -9.25))  # right programs are a quarter of a nat apart
    near = item((-1.0, -1.5), (-1.25, -1.0))
    far = item((-1.0, -1.75), (-2.0, -1.0))
    pair = paired([floor, near, far])
    assert pair is not None
    assert (pair.floor_largest, pair.flips, pair.flips_within, pair.agree) == (0.25, 2, 1, 1)


def test_items_that_could_flip_are_nearer_than_twice_all_but_one_in_a_hundred_distances() -> None:
    one_off = item((-1.0, -9.0), (-1.0, -7.0))
    usual = [item((-1.0, -1.0 - n / 100), (-1.1, -1.0 - n / 100)) for n in range(99)]
    pair = paired([*usual, one_off])
    assert pair is not None
    assert pair.largest == 2.0
    assert pair.median == pytest.approx(0.1)
    # Margins below 0.2: of the numbers up to 19, and twice the distance itself is not below it.
    assert pair.could_flip in (20, 21)


def test_a_broken_side_is_infinitely_far_and_anything_could_flip() -> None:
    broken = [item((-1.0, -2.0), (NAN, NAN)) for _ in range(5)]
    pair = paired([*broken, item((-1.0,), (NAN,))])
    assert pair is not None
    assert pair.largest == INF
    assert pair.could_flip == 5  # one choice cannot flip
    assert (pair.flips, pair.agree) == (0, 6)  # argmax of NaNs is the first
    pair = paired([item((-2.0, -1.0), (NAN, NAN))])
    assert pair is not None
    assert (pair.flips, pair.flips_within) == (1, 0)


def test_distances_are_over_texts_too() -> None:
    found = distances([item((-1.0, -2.0), (-1.5, -2.0)), rolling((-9.0,), (-8.0,))])
    assert found is not None
    assert (found.items, found.largest, found.median, found.floor_largest) == (2, 1.0, 0.75, 0)


# ── McNemar ──────────────────────────────────────────────────────────────────────────────────────


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for a, b in [*product(range(9), repeat=2), (40, 61), (500, 420), (0, 30)]:
        expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9), (a, b)


def test_mcnemar_by_hand_and_of_many() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(1, 5) == 2 * 7 / 64
    assert mcnemar(3, 3) == 1
    assert mcnemar(1, 2000) < 1e-300  # no overflow, and no division by nothing
    assert mcnemar(7000, 7000) == 1


# ── how many items it takes ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("p", "q", "items"),
    # Normal approximation without correction, 5 % two-sided, power 80 %.
    [(0.70, 0.60, 356), (0.50, 0.40, 388), (0.25, 0.15, 250)],
)
def test_unpaired_items_are_those_of_the_tables(p: float, q: float, items: int) -> None:
    assert items_needed(p, 1.0, (p - q) / p)[1] == items


def exact_power(items: int, a_alone: float, b_alone: float) -> float:
    """Return how often a McNemar test without correction is significant, term by term."""
    share, power = a_alone + b_alone, 0.0
    for m in range(1, items + 1):
        weight = math.exp(
            math.lgamma(items + 1) - math.lgamma(m + 1) - math.lgamma(items - m + 1)
            + m * math.log(share) + (items - m) * math.log1p(-share)
        )  # fmt: skip
        if weight < 1e-9:
            continue
        p = a_alone / share
        power += weight * sum(
            math.comb(m, a) * p**a * (1 - p) ** (m - a)
            for a in range(m + 1)
            if (2 * a - m) ** 2 / m > 1.959964**2
        )
    return power


@pytest.mark.parametrize(("apart", "share"), [(0.1, 0.2), (0.1, 0.4), (0.05, 0.1)])
def test_paired_items_have_the_power_that_is_asked_for(apart: float, share: float) -> None:
    items, _ = items_needed(0.5, share, apart / 0.5)
    power = exact_power(items, (share + apart) / 2, (share - apart) / 2)
    assert power == pytest.approx(0.8, abs=0.03)


def test_paired_items_by_hand() -> None:
    # (1.959964 √0.2 + 0.841621 √(0.2 - 0.1²))² / 0.1² = 154.6
    assert items_needed(0.5, 0.2, 0.2)[0] == 155


def test_what_0_15_percent_takes() -> None:
    paired_items, unpaired_items = items_needed(0.5, 0.01)
    # d = 0.00075: (1.95996 + 0.84162)² / d² = 13,953,722 times the variance of an item.
    assert paired_items == pytest.approx(13_953_722 * 0.01, rel=1e-3)
    assert unpaired_items == pytest.approx(13_953_722 * 0.5, rel=1e-3)
    # No fewer items can differ than the difference itself.
    assert items_needed(0.5, 0.0) == items_needed(0.5, 0.5 * 0.0015)


def test_needed_is_of_the_items_as_measured() -> None:
    found = needed([*marked(50, 2, 1, 47), rolling((-1.0,), (-2.0,))])
    assert found is not None
    assert (found.accuracy, found.alone, found.relative) == (0.52, 0.03, 0.0015)
    assert (found.paired, found.unpaired) == items_needed(0.52, 0.03)
    assert needed(marked(0, 0, 5, 5)) is None  # A has none right: no share of it
    assert needed(marked(9, 0, 0, 0)) is not None


def test_an_answer_made_by_hand_is_what_it_says() -> None:
    one = answers(-1.0, -2.0)
    assert (one.a.loglik, one.floor.loglik, one.b.loglik) == (-1.0, -1.0, -2.0)
