"""Stands in for the harness and for the forward pass of scores: what is asked is known here."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptdiff.results import Answer, Answers, StepApart
from ckptdiff.scores import jobs, run
from ckptdiff.scores.results import Asked, Item, Question, Scored, TaskScore

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from ckptdiff.forward.plan import PackedSequence, Section


def choices(task: int, doc: int, length: int) -> tuple[Question, ...]:
    """Return a document's two questions: answers of one token behind one context."""
    context = [task, doc, *range(length - 3)]
    return tuple(Question(array("i", [*context, last]).tobytes(), 1) for last in (1, 2))


@dataclass
class Worker:
    """Tasks of some documents each, of so many tokens, answered by a sum of their ids."""

    tasks: Mapping[str, int]
    length: int = 10
    steps: dict[tuple[str, int], StepApart] = field(default_factory=dict)  # by part and number
    free: int | None = 1 << 40  # bytes of memory
    run: list[tuple[PackedSequence, ...]] = field(default_factory=list)  # batches that were begun
    sections: list[str] = field(default_factory=list)
    scored: int = 0
    kept: tuple[PackedSequence, ...] = ()
    stops_at: int | None = None  # raises `stop` at this section, counted from 0
    stop: BaseException = field(default_factory=KeyboardInterrupt)

    def install(self, monkeypatch: pytest.MonkeyPatch, *, computes: bool = True) -> None:
        """Take the place of the harness and, if it `computes`, of the forward pass."""
        monkeypatch.setattr(run, "ask", self.ask)
        monkeypatch.setattr(run, "score", self.score)
        if not computes:
            return
        for name, stand_in in {
            "choose_device": lambda device, needed: ("cpu", ""),
            "memory_of": lambda device: self.free,
            "begin": self.begin,
            "take": self.take,
            "answers": self.answers,
        }.items():
            monkeypatch.setattr(jobs, name, stand_in)

    def documents(self) -> dict[tuple[str, int], tuple[Question, ...]]:
        return {
            (task, doc): choices(sum(map(ord, task)) % 300, doc, self.length)
            for task, docs in self.tasks.items()
            for doc in range(docs)
        }

    def ask(self, *_: Any) -> Asked:
        every = tuple(one for asked in self.documents().values() for one in asked)
        of = tuple(
            tuple(every.index(one) for (t, _), some in self.documents().items() for one in some
                  if t == task)
            for task in self.tasks
        )  # fmt: skip
        return Asked(every, tuple(self.tasks.items()), of)

    def score(self, spec: Any, facts: Any, answers: Mapping[Question, Answers], *_: Any) -> Scored:
        self.scored += 1
        items = tuple(
            Item(task, doc, "choices", "text", ("x", "y"), 0, asked,
                 tuple(answers[one] for one in asked), (), ())
            for (task, doc), asked in self.documents().items()
            if all(one in answers for one in asked)
        )  # fmt: skip
        rows = tuple(
            TaskScore(task, "other", "", "acc", 0.5, 0.5, sum(one.task == task for one in items))
            for task in self.tasks
            if any(one.task == task for one in items)
        )
        group = TaskScore("every", "other", "", "acc", 0.5, 0.5, len(items))
        return Scored((*rows, group), items, ("of the harness",))

    def begin(self, _: Any, sequences: tuple[PackedSequence, ...]) -> None:
        self.kept = sequences
        self.run.append(sequences)

    def take(self, _: Any, section: Section) -> tuple[StepApart, ...]:
        if self.stops_at == len(self.sections):
            raise self.stop
        self.sections.append(f"{section.part} {section.number}")
        found = self.steps.get((section.part, section.number))
        return () if found is None else (found,)

    def answers(self, *_: Any) -> tuple[tuple[Answers, ...], ...]:
        return tuple(
            tuple(answered(one.ids[: 4 * start + 4] + following) for start, following in one.spans)
            for one in self.kept
        )


def answered(ids: bytes) -> Answers:
    """Return what is answered to a question of these ids, as a right conversion would."""
    a = -random.Random(ids).random()
    one, floor, other = (Answer(x, is_greedy=False) for x in (a, math.nextafter(a, 0), a + 1e-12))
    return Answers(one, floor, other, 1e-8, 0.0, 1e-8)
