"""How a tensor is judged by its figures, and a whole comparison by its tensors."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.assembly.recipe import Assembled
from ckptdiff.checkpoint import Checkpoint, Parallelism
from ckptdiff.comparison.verdict import CAST, Tolerance, judge_tensor, numbers, summarise
from ckptdiff.errors import BadArgument
from ckptdiff.kernels.stats import Stats
from ckptdiff.results import Status, TensorDiff

if TYPE_CHECKING:
    from ckptdiff.results import Verdict

EXACT = Tolerance("exact")


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("exact", EXACT),
        ("cast", CAST),
        ("ulp:0", Tolerance("ulp", 0)),
        ("ulp:12", Tolerance("ulp", 12)),
        ("rel:0", Tolerance("rel", 0)),
        ("rel:0.5", Tolerance("rel", 0.5)),
        ("rel:1e-3", Tolerance("rel", 1e-3)),
    ],
)
def test_a_tolerance_is_read(text: str, tolerance: Tolerance) -> None:
    assert Tolerance.parse(text) == tolerance


@pytest.mark.parametrize(
    "text",
    ["", "Exact", "casts", "ulp", "ulp:", "ulp:x", "ulp:1.5", "ulp:-1", "ulp:1:2", "rel", "rel:",
     "rel:nan", "rel:inf", "rel:-0.1", "rel:1%", "exact:1", "cast:0", ":1",
     pytest.param("ulp:" + "9" * 400, id="ulp, 400 digits")],
)  # fmt: skip
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="say exact, cast, ulp:N or rel:X"):
        Tolerance.parse(text)


def test_a_bare_number_is_told_how_to_be_a_tolerance() -> None:
    with pytest.raises(BadArgument, match=r"as in rel:1e-3$"):
        Tolerance.parse("1e-3")


SAME = Stats(numel=9)
BITS = Stats(numel=9, differing=1)  # 0.0 against -0.0
STEPS = Stats(numel=9, differing=2, unequal=2, max_ulp=3, sum_dd=1.0, sum_aa=100.0, sum_bb=100.0)
LONE = replace(STEPS, inexcusable=1)  # one NaN besides
CASES: list[tuple[Stats, bool, str, tuple[str, str | None]]] = [
    # the same dtype on both sides
    (SAME, True, "exact", ("same", None)),
    (SAME, True, "cast", ("same", None)),
    (SAME, True, "ulp:9", ("same", None)),
    (SAME, True, "rel:1", ("same", None)),
    (BITS, True, "exact", ("differ", None)),
    (BITS, True, "cast", ("close", "bits")),
    (BITS, True, "ulp:0", ("close", "bits")),
    (BITS, True, "rel:0", ("close", "bits")),
    (STEPS, True, "exact", ("differ", None)),
    (STEPS, True, "cast", ("differ", None)),
    (STEPS, True, "ulp:2", ("differ", None)),
    (STEPS, True, "ulp:3", ("close", "tolerance")),
    (STEPS, True, "rel:0.09999", ("differ", None)),
    (STEPS, True, "rel:0.1", ("close", "tolerance")),
    (LONE, True, "ulp:9", ("differ", None)),
    (LONE, True, "rel:9", ("differ", None)),
    # another dtype
    (SAME, False, "exact", ("differ", None)),
    (SAME, False, "cast", ("close", "cast")),
    (SAME, False, "ulp:0", ("close", "cast")),
    (SAME, False, "rel:0", ("close", "cast")),
    (BITS, False, "cast", ("close", "bits")),
    (STEPS, False, "cast", ("differ", None)),
    (STEPS, False, "ulp:3", ("close", "tolerance")),
    (LONE, False, "rel:9", ("differ", None)),
]


@pytest.mark.parametrize(("stats", "same_dtype", "tolerance", "wanted"), CASES)
def test_a_tensor_is_judged_by_its_figures(
    stats: Stats, same_dtype: bool, tolerance: str, wanted: tuple[str, str | None]
) -> None:
    assert judge_tensor(stats, same_dtype, Tolerance.parse(tolerance)) == wanted


@given(
    differing=st.integers(0, 3),
    unequal=st.integers(0, 3),
    inexcusable=st.integers(0, 3),
    ulp=st.integers(0, 5),
    dd=st.floats(0, 10),
    same_dtype=st.booleans(),
    limit=st.floats(0, 3),
)
def test_a_wider_tolerance_never_turns_close_into_different(
    differing: int, unequal: int, inexcusable: int, ulp: int, dd: float, same_dtype: bool,
    limit: float,
) -> None:  # fmt: skip
    unequal = min(unequal, differing)
    stats = Stats(
        numel=9, differing=differing, unequal=unequal, inexcusable=min(inexcusable, unequal),
        max_ulp=ulp, sum_dd=dd, sum_aa=2.0, sum_bb=2.0,
    )  # fmt: skip
    rank = {"same": 0, "close": 1, "differ": 2}
    strict, cast = (rank[judge_tensor(stats, same_dtype, t)[0]] for t in (EXACT, CAST))
    assert cast <= strict
    for kind in ("ulp", "rel"):
        narrow, wide = (Tolerance(kind, limit), Tolerance(kind, limit * 2 + 1))
        assert rank[judge_tensor(stats, same_dtype, narrow)[0]] <= cast
        assert (
            rank[judge_tensor(stats, same_dtype, wide)[0]]
            <= rank[judge_tensor(stats, same_dtype, narrow)[0]]
        )


def test_means_are_taken_over_what_is_finite_on_both_sides() -> None:
    stats = Stats(
        numel=10, differing=5, unequal=5, sum_abs=4.0, sum_dd=16.0, sum_aa=25.0, sum_bb=25.0,
        histogram=[3, 1], nan_a=6,
    )  # fmt: skip
    found = numbers(stats, (2, 5))
    assert (found.mean_abs, found.rms, found.rel_l2) == (1.0, 2.0, 0.8)
    assert (found.norm_a, found.norm_b) == (5.0, 5.0)


def test_a_place_is_told_in_the_tensors_own_dimensions() -> None:
    stats = Stats(numel=24, max_abs=1.0, max_at=(5, 3))
    assert numbers(stats, (2, 3, 4)).max_at == (1, 2, 3)
    assert numbers(stats, (6, 4)).max_at == (5, 3)
    assert numbers(Stats(numel=4, max_abs=1.0, max_at=(0, 3)), (4,)).max_at == (3,)


def test_figures_of_nothing_are_zero_and_the_cosine_is_one() -> None:
    found = numbers(Stats(), (0, 3))
    assert (found.numel, found.mean_abs, found.rms, found.rel_l2) == (0, 0.0, 0.0, 0.0)
    assert found.cosine == 1.0


@pytest.mark.parametrize(
    ("dd", "aa", "bb", "cosine"),
    [(0.0, 4.0, 4.0, 1.0), (4.0, 1.0, 1.0, -1.0), (2.0, 1.0, 1.0, 0.0), (1.0, 4.0, 1.0, 1.0)],
)
def test_the_cosine_is_that_of_the_two_vectors(
    dd: float, aa: float, bb: float, cosine: float
) -> None:
    stats = Stats(numel=2, differing=1, unequal=1, sum_dd=dd, sum_aa=aa, sum_bb=bb)
    assert numbers(stats, (2,)).cosine == pytest.approx(cosine)


@given(x=st.floats(1e-6, 1e6), tiny=st.floats(1e-30, 1e-12))
def test_a_cosine_of_exactly_one_means_no_difference_at_all(x: float, tiny: float) -> None:
    stats = Stats(numel=2, differing=1, unequal=1, sum_dd=tiny * x, sum_aa=x, sum_bb=x)
    assert -1 <= numbers(stats, (2,)).cosine < 1


def test_beside_a_vector_of_zeros_there_is_no_angle() -> None:
    stats = Stats(numel=2, differing=2, unequal=2, sum_dd=1.0, sum_aa=0.0, sum_bb=1.0)
    found = numbers(stats, (2,))
    assert math.isnan(found.cosine)
    assert found.rel_l2 == math.inf


# A whole comparison


def side(*unmapped: str) -> Assembled:
    checkpoint = Checkpoint(Path(), "hf", "hf", None, Parallelism(), (), ())
    return Assembled(checkpoint, None, None, {}, unmapped, {})


def results(*statuses: Status) -> list[TensorDiff]:
    return [TensorDiff(str(n), status) for n, status in enumerate(statuses)]


RANK: dict[Status, Verdict] = {
    "same": "same", "close": "close", "matched": "matched", "packed": "packed", "differ": "differ",
    "shape": "differ", "only_a": "differ", "only_b": "differ", "error": "differ",
}  # fmt: skip


def test_every_status_has_a_verdict() -> None:
    assert set(RANK) == set(get_args(Status))


@pytest.mark.parametrize(("one", "other"), product(RANK, RANK))
def test_the_worst_tensor_decides(one: Status, other: Status) -> None:
    order = ["same", "close", "matched", "packed", "differ"]
    summary = summarise(results("same", one, other), side(), side())
    assert summary.weights == max(RANK[one], RANK[other], key=order.index)
    assert summary.verdict == summary.weights
    assert summary.has_errors is ("error" in (one, other))
    counts = dict.fromkeys(RANK, 0)
    for status in ("same", one, other):
        counts[status] += 1
    assert summary.counts == counts


def test_what_could_not_be_read_at_all_is_no_difference() -> None:
    assert summarise(results("error", "error"), side(), side("x")).verdict == "trouble"


@pytest.mark.parametrize("sides", [(side("x"), side()), (side(), side("x"))], ids=["a", "b"])
@pytest.mark.parametrize("statuses", [("same",), ("same", "close"), ()])
def test_a_name_that_no_rule_knows_makes_a_difference(
    sides: tuple[Assembled, Assembled], statuses: tuple[Status, ...]
) -> None:
    summary = summarise(results(*statuses), *sides)
    assert summary.weights == summary.verdict == "differ"
    assert not summary.has_errors


def test_results_may_come_by_name() -> None:
    found = results("same", "differ")
    by_name = {result.name: result for result in found}
    assert summarise(by_name, side(), side()) == summarise(found, side(), side())
