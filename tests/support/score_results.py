"""Items and a finished comparison of scores, made by hand: every field has something to say."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.results import Answer, Answers, StepApart
from ckptdiff.scores.groups import place_of, relative_mean
from ckptdiff.scores.paired import paired
from ckptdiff.scores.results import Item, Question, ScoreDiff, TaskScore

if TYPE_CHECKING:
    from collections.abc import Sequence


def question(*ids: int, answer: int = 1) -> Question:
    return Question(array("i", ids).tobytes(), answer)


def answers(a: float, b: float, floor: float | None = None, **apart: float) -> Answers:
    """Return an answer's log-likelihoods; A's weights in B's arithmetic give A's own by default."""
    far = {"floor_apart": 0.0, "weights_apart": 0.0, "apart": 0.0, **apart}
    return Answers(
        Answer(a, is_greedy=False),
        Answer(a if floor is None else floor, is_greedy=False),
        Answer(b, is_greedy=False),
        **far,
    )


def item(
    a: Sequence[float],
    b: Sequence[float] | None = None,
    target: int | None = 0,
    floor: Sequence[float] | None = None,
    **changes: Any,
) -> Item:
    """Return an item with choices of these log-likelihoods; `apart` is of each answer."""
    b = a if b is None else b
    floor = a if floor is None else floor
    apart = changes.pop("apart", {})
    given = {
        "task": "boolq",
        "doc": 0,
        "kind": "choices",
        "text": "Is it?",
        "choices": tuple("ABCDEFGH"[: len(a)]),
        "target": target,
        "questions": tuple(question(1, 5, 7 + n) for n in range(len(a))),
        "answers": tuple(answers(x, y, f, **apart) for x, y, f in zip(a, b, floor, strict=True)),
        "scores_a": (),
        "scores_b": (),
        **changes,
    }
    return Item(**given)


def rolling(a: Sequence[float], b: Sequence[float], **changes: Any) -> Item:
    """Return a rolling text whose windows have these log-likelihoods."""
    return item(a, b, None, kind="rolling", task="wikitext", choices=(), **changes)


RIGHT, WRONG = (-1.0, -2.0), (-2.0, -1.0)  # log-likelihoods of an item whose target is 0


def marked(both: int, a_alone: int, b_alone: int, neither: int) -> list[Item]:
    """Return items that both sides, one of them, or neither have right."""
    return [
        *(item(RIGHT, RIGHT) for _ in range(both)),
        *(item(RIGHT, WRONG) for _ in range(a_alone)),
        *(item(WRONG, RIGHT) for _ in range(b_alone)),
        *(item(WRONG, WRONG) for _ in range(neither)),
    ]


def row(task: str, a: float, b: float, metric: str = "acc", items: int = 100) -> TaskScore:
    """Return a row of the table, in its own group."""
    group, part = place_of(task)
    return TaskScore(task, group, part, metric, a, b, items)


ROWS = (
    row("bigbench_date_understanding_multiple_choice", 0.5, 0.5, items=369),
    row("xcopa_et", 0.56, 0.55),
    row("hellaswag", 0.4000, 0.4004, "acc_norm"),
    row("boolq", 0.62, 0.6197),
    row("hellaswag", 0.3, 0.3),
    row("mmlu_anatomy", 0.25, 0.26, items=135),
    row("mmlu_virology", 0.35, 0.35, items=166),
    row("mmlu_astronomy", 0.0, 0.1, items=152),
    row("wikitext", 20.5, 20.50001, "word_perplexity", items=62),
    row("wikitext", 0.9, 0.90001, "bits_per_byte", items=62),
)
STEP = StepApart(2, "k", 1.4, 0, ("model.layers.2.self_attn.k_proj.weight",))


def found(items: Sequence[Item] | None = None, **changes: Any) -> ScoreDiff:
    """Return a comparison of rows and items that only arithmetic tells apart."""
    items = (
        [item((-1.0, -2.0), (-1.00001, -2.0), floor=(-1.00001, -2.0))] if items is None else items
    )
    done = ScoreDiff(
        verdict="arithmetic",
        sentence="Only arithmetic for these items: no step gives another value.",
        dtype="fp32",
        device="cpu",
        tasks=ROWS,
        mean=relative_mean(ROWS),
        paired=paired(items),
        items=tuple(items),
        step=None,
        shown_by=None,
    )
    return replace(done, **changes)


def faulty(**changes: Any) -> ScoreDiff:
    """Return a comparison in which an item shows that weights differ."""
    shown = item(
        RIGHT, (-6.5, -3.0), doc=12, text="Is the sky\nblue?", choices=(" yes", " no"),
        apart={"weights_apart": 0.5, "apart": 0.5},
    )  # fmt: skip
    return found(
        [*marked(8, 1, 0, 2), shown],
        **{
            "verdict": "weights-or-config", "step": STEP, "shown_by": shown,
            "sentence": "Weights or config differ: from equal inputs, k of layer 2 is another.",
            **changes,
        },
    )  # fmt: skip
