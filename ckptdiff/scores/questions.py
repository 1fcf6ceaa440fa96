"""The questions of a comparison: which are answered, by which tasks they are asked."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ckptdiff.forward.steps import LOOKUPS
from ckptdiff.scores.batches import ID, batches
from ckptdiff.scores.journal import FoundStep, question_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.results import Answers, StepApart
    from ckptdiff.scores.batches import QuestionBatch
    from ckptdiff.scores.journal import KeptBatch
    from ckptdiff.scores.results import Asked, Question


def ids_of(question: Question) -> tuple[int, ...]:
    """Return the token ids of a question, context and answer."""
    return tuple(array("i", question.ids))


class Questions:
    """What all tasks ask, and what is answered of it."""

    def __init__(self, asked: Asked) -> None:
        self.all = asked.questions
        self.by_task = {
            task: tuple(asked.questions[number] for number in numbers)
            for (task, _), numbers in zip(asked.tasks, asked.of, strict=True)
        }
        self.answers: dict[Question, Answers] = {}
        self.steps: list[FoundStep] = []

    @property
    def longest(self) -> int:
        """The tokens of the longest sequence that is run."""
        return max(len(question.ids) // ID for question in self.all) - 1

    def take(self, kept: Iterable[KeptBatch]) -> None:
        """Take the answers that are asked for from what was kept.

        And the steps of their batches, whichever of their questions showed them.
        """
        keys = {question_key(question): question for question in self.all}
        for batch in kept:
            found = {keys[key]: given for key, given in batch.answers.items() if key in keys}
            if found:
                self.answers.update(found)
                self._add(batch.steps)

    def batches(self, most: int, *, shares_prefixes: bool) -> list[QuestionBatch]:
        """Return what is not answered, in batches of at most `most` tokens.

        The batches of a run that was stopped are made again as they were, and give the same.
        """
        whole = list(batches(self.all, most, shares_prefixes=shares_prefixes))
        left = [[one for one, *_ in batch.places if one not in self.answers] for batch in whole]
        if all(
            len(some) in (0, len(batch.places)) for some, batch in zip(left, whole, strict=True)
        ):
            return [batch for some, batch in zip(left, whole, strict=True) if some]
        rest = [one for some in left for one in some]
        return list(batches(rest, most, shares_prefixes=shares_prefixes))

    def keep(
        self, batch: QuestionBatch, spans: Sequence[Sequence[Answers]], steps: Iterable[StepApart]
    ) -> tuple[dict[Question, Answers], list[FoundStep]]:
        """Take what a batch gave: the answers of each sequence's spans. Return what is new."""
        found = {question: spans[number][span] for question, number, span in batch.places}
        shown = [FoundStep(step, question_key(batch.question_of(step.sequence))) for step in steps]
        self.answers.update(found)
        self._add(shown)
        return found, shown

    @property
    def finished(self) -> tuple[str, ...]:
        """The tasks whose questions are all answered."""
        return tuple(
            task
            for task, asked in self.by_task.items()
            if all(question in self.answers for question in asked)
        )

    def tasks_of(self, batch: QuestionBatch) -> tuple[str, ...]:
        """Return the tasks that ask questions of a batch."""
        inside = {question for question, *_ in batch.places}
        return tuple(task for task, asked in self.by_task.items() if not inside.isdisjoint(asked))

    def in_order(self) -> list[StepApart]:
        """Return the steps in the order of the model, each once, where it is farthest apart."""
        worst: dict[tuple[int | None, str], StepApart] = {}
        for one in (found.step for found in self.steps):
            known = worst.get((one.layer, one.name))
            if known is None or not one.rel <= known.rel:
                worst[one.layer, one.name] = one
        first = [one for one in worst.values() if one.layer is None and one.name in LOOKUPS]
        layers = [one for one in worst.values() if one.layer is not None]
        last = [one for one in worst.values() if one.layer is None and one.name not in LOOKUPS]
        return [*first, *sorted(layers, key=lambda one: one.layer or 0), *last]

    def _add(self, steps: Iterable[FoundStep]) -> None:
        self.steps += [one for one in steps if one not in self.steps]
