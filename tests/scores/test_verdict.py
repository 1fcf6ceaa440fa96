"""The verdict on scores goes by steps and log-likelihoods, and never by accuracies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ckptdiff.dtypes import BY_FLAG, FLOATS
from ckptdiff.results import StepApart
from ckptdiff.scores.verdict import judge, worst_question
from tests.support.score_results import RIGHT, STEP, WRONG, answers, item, question

CLEAN = {"floor_apart": 1e-6, "apart": 1e-6}
FAR = {"floor_apart": 1e-6, "weights_apart": 0.3, "apart": 0.3}


def items(*apart: dict[str, float], **changes: Any) -> list[Any]:
    return [item(RIGHT, doc=n, apart=one, **changes) for n, one in enumerate(apart)]


def eps(dtype: str) -> float:
    return FLOATS[BY_FLAG[dtype]].epsilon


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16", "fp16"])
def test_no_step_apart_is_only_arithmetic(dtype: str) -> None:
    found = judge([], items({}, {"floor_apart": eps(dtype), "apart": eps(dtype)}), dtype)
    assert found.verdict == "arithmetic"
    assert "gives another value" in found.sentence
    assert (f"in {dtype}" in found.sentence) == (dtype in ("bf16", "fp16"))
    assert found.step is None
    assert found.shown_by is None
    assert found.floor == eps(dtype)


def test_accuracies_have_no_say() -> None:
    apart = [item(RIGHT, WRONG, apart=CLEAN), item(WRONG, RIGHT, apart=CLEAN)]
    assert judge([], apart, "fp32").verdict == "arithmetic"
    alike = [item(RIGHT, RIGHT, apart=FAR)]
    assert judge([STEP], alike, "fp32").verdict == "weights-or-config"


@pytest.mark.parametrize(("dtype", "verdict"), [
    ("fp32", "arithmetic"), ("fp64", "arithmetic"), ("bf16", "undecided"), ("fp16", "undecided"),
])  # fmt: skip
def test_a_small_step_is_rounding_where_rounding_hides_nothing(dtype: str, verdict: str) -> None:
    small = replace(STEP, rel=49 * eps(dtype))
    found = judge([small], items({}), dtype)
    assert found.verdict == verdict
    if verdict == "arithmetic":
        assert f"{small.rel:.1e}" in found.sentence
        assert "gives another value" not in found.sentence
    else:
        assert found.step == small
        assert "compare in fp32" in found.sentence
    large = replace(STEP, rel=51 * eps(dtype))
    assert judge([small, large], items({}), dtype).step == large


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["embed", "positions"])
def test_a_row_that_is_looked_up_is_never_rounded(name: str, dtype: str) -> None:
    bit = StepApart(None, name, 1e-3 * eps(dtype), 0)
    found = judge([bit], items({}, {"weights_apart": eps(dtype)}), dtype)
    assert found.verdict == "weights-or-config"
    assert found.step == bit
    assert found.shown_by is not None
    assert "Rounding hides it" in found.sentence
    why = ["ckptdiff does not compute X"]
    assert judge([bit], items({}), dtype, undecided=why).verdict == "weights-or-config"


@pytest.mark.parametrize("rel", [1.4, math.inf, math.nan])
def test_a_large_step_is_weights_or_config_with_the_first_item_that_shows_it(rel: float) -> None:
    later = StepApart(5, "v", 3.0, 0)
    found = judge(
        [replace(STEP, rel=rel), later], items(CLEAN, FAR, FAR), "fp32", cause=lambda _: "It is K.",
    )  # fmt: skip
    assert found.verdict == "weights-or-config"
    assert found.step is not None
    assert found.step.name == "k"
    assert "k of layer 2" in found.sentence
    assert "It is K." in found.sentence
    assert found.shown_by is not None
    assert found.shown_by.doc == 1
    assert "item 1 of boolq" in found.sentence


def test_a_fault_that_no_answer_depends_on_is_a_fault() -> None:
    found = judge([STEP], items(CLEAN), "fp32")
    assert (found.verdict, found.shown_by) == ("weights-or-config", None)
    assert "No answer here depends on it" in found.sentence
    hidden = judge([STEP], items(CLEAN, {"weights_apart": 1e-7}), "fp32")
    assert hidden.shown_by is not None
    assert hidden.shown_by.doc == 1
    assert "Rounding hides it" in hidden.sentence


def test_answers_alone_give_a_fault_away() -> None:
    found = judge([], items(CLEAN, FAR), "fp32")
    assert (found.verdict, found.step) == ("weights-or-config", None)
    assert "no single step" in found.sentence
    # 20 times the floor is 2e-5, 50 epsilon 6e-6.
    assert judge([], items(CLEAN, {"weights_apart": 1.9e-5}), "fp32").verdict == "arithmetic"
    assert judge([], items(CLEAN, {"weights_apart": 2.1e-5}), "fp32").verdict != "arithmetic"


def test_a_large_floor_excuses_no_answer() -> None:
    # At most 2^13 epsilon, 1e-3 in fp32, whatever the floor.
    wide = {"floor_apart": 0.01, "weights_apart": 0.002}
    assert judge([], items(wide), "fp32").verdict == "weights-or-config"
    assert judge([], items({**wide, "weights_apart": 0.0}), "fp32").verdict == "undecided"


def test_a_floor_beyond_rounding_is_not_decided_but_with_experts() -> None:
    apart = items(*[CLEAN] * 5, {"floor_apart": 0.02, "apart": 0.02})
    found = judge([], apart, "fp32")
    assert found.verdict == "undecided"
    assert found.shown_by is apart[5]
    # A token that goes to another expert by rounding is a single one.
    assert judge([], apart, "fp32", has_experts=True).verdict == "arithmetic"
    everywhere = items(*[{"floor_apart": 0.02, "apart": 0.02}] * 5)
    assert judge([], everywhere, "fp32", has_experts=True).verdict == "undecided"
    nan = items(CLEAN, CLEAN, {"floor_apart": math.nan})
    assert judge([], nan, "fp32").verdict == "undecided"


def test_what_is_not_computed_leaves_arithmetic_undecided_and_no_fault() -> None:
    why = ["ckptdiff does not compute X"]
    found = judge([], items(CLEAN), "fp32", undecided=why)
    assert found.verdict == "undecided"
    assert found.sentence.startswith("Not decided: ckptdiff does not compute X. Apart from that,")
    assert judge([STEP], items(FAR), "fp32", undecided=why).verdict == "weights-or-config"


def test_conditions_are_said() -> None:
    found = judge([], items(CLEAN), "fp32", conditions=["A is run with the same mask as B"])
    assert "for these items, if A is run with the same mask as B: " in found.sentence


@pytest.mark.parametrize("none", [[], [item((), choices=())]])
def test_without_answers_nothing_is_decided(none: list[Any]) -> None:
    assert judge([], none, "fp32").verdict == "undecided"
    assert judge([STEP], none, "fp32").verdict == "weights-or-config"


@pytest.mark.parametrize("apart", [math.inf, math.nan])
def test_a_broken_b_is_a_fault_and_a_broken_a_is_not_blamed_on_b(apart: float) -> None:
    far = {"weights_apart": apart, "apart": apart}
    broken_b = [item((-1.0, -2.0), (math.nan, math.nan), apart=far)]
    found = judge([], broken_b, "fp32")
    assert found.verdict == "weights-or-config"
    assert "no numbers" in found.sentence
    both = [item((math.nan, math.nan), apart={**far, "floor_apart": math.inf})]
    found = judge([], both, "fp32")
    assert found.verdict == "undecided"
    assert "A's own log-likelihoods of item 0 of boolq are no numbers" in found.sentence
    # With a step that differs it is a fault; rounding hides nothing in what is no number.
    found = judge([STEP], both, "fp32")
    assert found.verdict == "weights-or-config"
    assert "A's own log-likelihoods of item 0 of boolq are no numbers" in found.sentence
    assert "Rounding hides" not in found.sentence


def test_the_question_that_shows_the_most_is_taken() -> None:
    far = (0.1, 0.7, 0.3)
    one = item(
        (-1.0, -2.0, -3.0),
        answers=tuple(answers(-1.0, -1.0, weights_apart=x) for x in far),
        questions=tuple(question(1, n) for n in range(3)),
    )
    assert worst_question(one) == 1
    nan = replace(one, answers=(*one.answers[:2], answers(-1.0, -1.0, weights_apart=math.nan)))
    assert worst_question(nan) == 2
