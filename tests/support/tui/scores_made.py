"""What a comparison of scores tells, made by hand: a clean pair, a faulty one, one that stopped."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.results import Answer, Answers, StepApart
from ckptdiff.scores.groups import place_of, relative_mean
from ckptdiff.scores.paired import paired
from ckptdiff.scores.results import Item, Question, ScoreDiff, ScoreProgress, TaskScore

if TYPE_CHECKING:
    from collections.abc import Sequence

CLEAN_WORDS = "Only arithmetic: no step gives another value with B's weights."
FAULT_WORDS = (
    "Weights or config differ: k of layer 1 gives another value, relative difference 1.8. "
    "ckptdiff logits A B --ids 1,450,7483 shows where."
)
CAPITALS = ("Paris", "Rome", "Bern", "Oslo")


def answers(a: float, b: float, floor: float = 2e-6) -> Answers:
    """Return what both sides give for an answer, the floor's distance from A given."""
    return Answers(
        Answer(a, is_greedy=a > -1),
        Answer(a + floor, is_greedy=a > -1),
        Answer(b, is_greedy=b > -1),
        floor_apart=3e-7,
        weights_apart=abs(a - b) / 9,
        apart=abs(a - b) / 8,
    )


def question(doc: int, number: int) -> Question:
    ids = array("i", (1, 450, 7483, 300 + doc, 900 + number))
    return Question(ids.tobytes(), 1)


def item(
    task: str, doc: int, a: Sequence[float], b: Sequence[float], target: int = 0, text: str = ""
) -> Item:
    """Return a document with as many choices as each side has log-likelihoods."""
    choices = tuple(f" {CAPITALS[number % 4]}" for number in range(len(a)))
    given = tuple(answers(one, other) for one, other in zip(a, b, strict=True))
    return Item(
        task=task,
        doc=doc,
        kind="choices",
        text=text or f"Question {doc}:\nWhat is the capital of France?\nAnswer:",
        choices=choices,
        target=target,
        questions=tuple(question(doc, number) for number in range(len(a))),
        answers=given,
        scores_a=(("acc", float(a.index(max(a)) == target)),),
        scores_b=(("acc", float(b.index(max(b)) == target)),),
    )


def rolling(task: str, doc: int) -> Item:
    """Return a text of three windows."""
    return Item(
        task, doc, "rolling", "Once upon a time", (), None,
        tuple(question(doc, number) for number in range(3)),
        (answers(-80.25, -80.2501), answers(-70.5, -70.5), answers(-9.125, -9.125)),
        (("word_perplexity", 12.5),), (("word_perplexity", 12.5002),),
    )  # fmt: skip


def row(task: str, a: float, b: float, items: int, metric: str = "acc") -> TaskScore:
    group, part = place_of(task)
    return TaskScore(task, group, part, metric, a, b, items, stderr=0.031)


ROWS = (
    row("boolq", 0.7125, 0.7125, 4),
    row("hellaswag", 0.50, 0.25, 2),
    row("hellaswag", 0.62, 0.61, 2, "acc_norm"),
    row("mmlu_astronomy", 0.25, 0.25, 1),
    row("mmlu_philosophy", 0.5, 0.5, 2),
    row("mmlu_prehistory", 0.0, 0.0, 2),
    row("wikitext", 12.5, 12.5002, 1, "word_perplexity"),
)
CLEAN_ROWS = tuple(replace(each, b=each.a) for each in ROWS)
FAULTY_ITEMS = (
    item("boolq", 0, (-0.5, -3.25), (-0.75, -3.0)),
    item("boolq", 1, (-0.5, -3.0), (-0.5, -3.0)),
    item("hellaswag", 7, (-1.5, -1.75, -4.0, -6.0), (-4.5, -2.25, -5.0, -6.5)),
    item("hellaswag", 8, (-1.0, -2.0, -4.0, -6.0), (-1.5, -2.0, -4.0, -11.5)),
    item("mmlu_astronomy", 3, (-1.25, -2.0), (-2.0, -1.25), 1),
    item("mmlu_philosophy", 4, (-1.0, -2.0), (-1.125, -2.0), 1),
    item("mmlu_prehistory", 5, (-1.0, -2.0), (-1.0, -2.0), 1),
    rolling("wikitext", 0),
)


def as_a(each: Item) -> Item:
    """Return an item of which B gives what A's weights give in B's arithmetic."""
    return replace(
        each,
        answers=tuple(replace(one, b=one.floor, weights_apart=0.0) for one in each.answers),
        scores_b=each.scores_a,
    )


def diff(rows: tuple[TaskScore, ...], items: tuple[Item, ...], **options: object) -> ScoreDiff:
    values: dict[str, object] = {
        "verdict": "arithmetic",
        "sentence": CLEAN_WORDS,
        "dtype": "fp32",
        "device": "cpu",
        "tasks": rows,
        "mean": relative_mean(rows),
        "paired": paired(items),
        "items": items,
        "step": None,
        "shown_by": None,
    }
    return ScoreDiff(**values | options)  # type: ignore[arg-type]


def clean(**options: object) -> ScoreDiff:
    return diff(CLEAN_ROWS, tuple(map(as_a, FAULTY_ITEMS)), **options)


def faulty(**options: object) -> ScoreDiff:
    """Two flips, the accuracies of boolq and MMLU the same."""
    given: dict[str, object] = {
        "verdict": "weights-or-config",
        "sentence": FAULT_WORDS,
        "step": StepApart(1, "k", 1.8, 0, ("model.layers.1.self_attn.k_proj.weight",)),
        "shown_by": FAULTY_ITEMS[0],
    }
    return diff(ROWS, FAULTY_ITEMS, **given | options)


def many(count: int = 300) -> ScoreDiff:
    """A clean pair with so many items."""
    items = tuple(
        item("boolq", doc, (-0.5, -3.0), (-0.5, -3.0 - doc / 1e6)) for doc in range(count)
    )
    return diff((row("boolq", 0.75, 0.75, count),), items)


def steps(found: ScoreDiff, *notes: str) -> list[ScoreProgress | ScoreDiff]:
    """Return what a comparison yields: two batches of three sections, a task after each."""
    told: list[ScoreProgress | ScoreDiff] = [ScoreProgress("reading tasks", 0, 0, 0.5)]
    for batch in (1, 2):
        for section in (1, 2, 3):
            at = 3 * (batch - 1) + section - 1
            done = 12 * (batch - 1) + (12 if section == 3 else 0)
            told.append(
                ScoreProgress(
                    f"layer {section - 1}", done, 24, 1.0 + at, left=6.0 - at, rate=4.0,
                    batch=batch, batches=2, section=section, sections=3,
                    note=notes[at] if at < len(notes) else "",
                    tasks=found.tasks[:1] if (batch, section) == (1, 3) else (),
                )
            )  # fmt: skip
    return [*told, found]
