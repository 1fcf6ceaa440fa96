"""The verdict on two sides' scores: from steps and log-likelihoods, whatever the accuracies say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ckptdiff.forward.steps import LOOKUPS
from ckptdiff.logits.verdict import threshold_of
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptdiff.results import Answers, StepApart
    from ckptdiff.scores.results import Item, ScoreVerdict

# In these, 50 epsilon are less than any fault that is known makes of a step; in bf16 they are not.
_FINE = ("fp32", "fp64")


@dataclass(frozen=True, slots=True)
class ScoreJudged:
    """The verdict, in words, and what shows it."""

    verdict: ScoreVerdict
    sentence: str
    step: StepApart | None  # the first that gives away that weights or config differ
    shown_by: Item | None  # the first item that shows it
    floor: float  # the largest relative distance of logits that right programs make here
    threshold: float  # for the logits of an answer


def judge(
    steps: Sequence[StepApart],
    items: Sequence[Item],
    dtype: str,
    *,
    undecided: Sequence[str] = (),
    conditions: Sequence[str] = (),
    cause: Callable[[StepApart], str] | None = None,
    has_experts: bool = False,
) -> ScoreJudged:
    """Return the verdict on all steps that gave another value, and all items that were answered.

    `undecided` are `Reasons.undecided()`, `conditions` its conditions; `cause` says in a sentence
    which tensors of a step differ, or what else is to blame. With experts a token may go to others
    by rounding alone, so answers may be far apart while no step is.
    """
    answers = [answer for item in items for answer in item.answers]
    floors = [answer.floor_apart for answer in answers if math.isfinite(answer.floor_apart)]
    floor = max(floors, default=0.0)
    threshold = threshold_of(floor, dtype)
    rounding = threshold_of(0.0, dtype)  # of a step, from equal inputs

    def judged(
        verdict: ScoreVerdict,
        sentence: str,
        step: StepApart | None = None,
        item: Item | None = None,
    ) -> ScoreJudged:
        return ScoreJudged(verdict, sentence, step, item, floor, threshold)

    large = [step for step in steps if step.name in LOOKUPS or not step.rel <= rounding]
    beyond = _first_item(
        items, lambda one: math.isfinite(one.a.loglik) and not one.weights_apart <= threshold
    )
    if large or beyond is not None:
        step = large[0] if large else None
        shown = beyond or _first_item(items, lambda one: bool(one.weights_apart))
        sentence = _fault_sentence(step, shown, threshold, cause, is_beyond=beyond is not None)
        return judged("weights-or-config", sentence, step, shown)
    if not answers:
        return judged("undecided", "Not decided: no item was answered.")
    broken = _first_item(items, lambda one: not math.isfinite(one.a.loglik))
    if broken is not None:
        sentence = f"Not decided: A's own log-likelihoods of {item_words(broken)} are no numbers."
        return judged("undecided", sentence, None, broken)
    close = _close(steps, answers, dtype)
    if undecided:
        return judged(
            "undecided", f"Not decided: {'; '.join(undecided)}. Apart from that, {close}."
        )
    small = max(steps, key=lambda step: step.rel, default=None)
    if small is not None and dtype not in _FINE:
        sentence = (
            f"Not decided: from equal inputs, {place(small)} is {small.rel:.1e} apart with B's "
            f"weights. In {dtype} that may be rounding, or hide a fault: compare in fp32."
        )
        shown = _first_item(items, lambda one: bool(one.weights_apart))
        return judged("undecided", sentence, small, shown)
    far = _first_item(items, lambda one: not one.floor_apart <= threshold)
    isolated = has_experts and median(one.floor_apart for one in answers) <= threshold
    if far is not None and not isolated:
        sentence = (
            f"Not decided: with A's own weights, B's arithmetic gives logits that are "
            f"{_worst_floor(answers):.1e} apart from A's, more than rounding explains. "
            "No step differs with B's weights."
        )
        return judged("undecided", sentence, None, far)
    condition = f", if {' and '.join(conditions)}" if conditions else ""
    return judged("arithmetic", f"Only arithmetic for these items{condition}: {close}.")


def place(step: StepApart) -> str:
    """Return the layer and the name of a step, in words."""
    return step.name if step.layer is None else f"{step.name} of layer {step.layer}"


def worst_question(item: Item) -> int:
    """Return the number of the item's question whose logits show the most."""

    def distance(number: int) -> list[float]:
        one = item.answers[number]
        return [math.inf if math.isnan(x) else x for x in (one.weights_apart, one.apart)]

    return max(range(len(item.answers)), key=distance)


def _first_item(items: Sequence[Item], shows: Callable[[Answers], bool]) -> Item | None:
    return next((item for item in items if any(map(shows, item.answers))), None)


def _close(steps: Sequence[StepApart], answers: Sequence[Answers], dtype: str) -> str:
    """Return, as a clause, how close two sides are that nothing tells apart."""
    largest = max((step.rel for step in steps), default=0.0)
    if largest:
        words = f"no step differs by more than {largest:.1e} with B's weights"
    else:
        where = "" if dtype in _FINE else f", in {dtype},"  # weights of more bits are rounded to it
        words = f"no step{where} gives another value with B's weights than with A's"
    floor = _worst_floor(answers)
    if not floor:
        return f"{words}; both sides compute alike"
    return f"{words}; A's own weights, computed both ways, give logits up to {floor:.1e} apart"


def _worst_floor(answers: Sequence[Answers]) -> float:
    """Return the largest floor; infinite if one is no number."""
    floors = [one.floor_apart for one in answers]
    return math.inf if any(map(math.isnan, floors)) else max(floors)


def _fault_sentence(
    step: StepApart | None,
    shown: Item | None,
    threshold: float,
    cause: Callable[[StepApart], str] | None,
    *,
    is_beyond: bool,
) -> str:
    if step is not None:
        sentence = (
            f"Weights or config differ: from equal inputs, {place(step)} is another with B's "
            f"weights than with A's, relative difference {step.rel:.2g}."
        )
        if cause is not None and (words := cause(step)):
            sentence += f" {words}"
    else:
        sentence = (
            "Weights or config differ: no single step gives it away, but logits of an answer do."
        )
    if shown is None:
        return f"{sentence} No answer here depends on it."
    if any(not math.isfinite(one.a.loglik) for one in shown.answers):
        return f"{sentence} A's own log-likelihoods of {item_words(shown)} are no numbers."
    if not is_beyond:
        return f"{sentence} Rounding hides it in every answer here."
    number = worst_question(shown)
    apart = shown.answers[number].weights_apart
    if not math.isfinite(apart):
        return f"{sentence} Logits of {item_words(shown)} are no numbers."
    return (
        f"{sentence} Logits of {item_words(shown)} are {apart:.1e} apart; rounding explains "
        f"{threshold:.1e}."
    )


def item_words(item: Item) -> str:
    """Return which item it is, in words."""
    return f"item {item.doc} of {item.task}"


def answered_words(items: Sequence[Item]) -> str:
    """Return how many items and answers there are, in words."""
    answers = sum(len(item.answers) for item in items)
    return f"{plural(len(items), 'item')}, {plural(answers, 'answer')}"
