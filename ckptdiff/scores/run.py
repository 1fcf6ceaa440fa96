"""Ask both checkpoints the questions of lm-evaluation-harness's tasks, batch by batch."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import BadArgument, UnreadableFile, WorkerDied
from ckptdiff.extras import require
from ckptdiff.formats.fingerprint import fingerprint
from ckptdiff.forward.plan import PackedRun
from ckptdiff.logits.sides import (
    canonical_names,
    forward_side,
    left_out,
    sections_of,
    token_count,
)
from ckptdiff.logits.verdict import Reasons
from ckptdiff.results import Tap
from ckptdiff.scores import jobs
from ckptdiff.scores.attribution import attributed
from ckptdiff.scores.casts import cast_words
from ckptdiff.scores.cost import Cost, Pace, batch_tokens
from ckptdiff.scores.groups import place_of, relative_mean
from ckptdiff.scores.harness import ask, score
from ckptdiff.scores.journal import VERSION, Journal
from ckptdiff.scores.model_facts import model_facts
from ckptdiff.scores.paired import paired
from ckptdiff.scores.questions import Questions, ids_of
from ckptdiff.scores.results import ScoreDiff, ScoreProgress
from ckptdiff.scores.tasks import TaskSpec
from ckptdiff.scores.verdict import judge
from ckptdiff.text import format_bytes, format_duration, plural

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.forward.plan import Section
    from ckptdiff.results import StepApart
    from ckptdiff.scores.batches import QuestionBatch
    from ckptdiff.scores.results import Asked, Scored, TaskScore


def compare_scores(
    a: Assembled,
    b: Assembled,
    tasks: TaskSpec | Sequence[str],
    executor: Executor,
    *,
    dtype: str = "fp32",
    device: str = "auto",
    reference: str = "hf",
    batch_tokens: int | None = None,
    folder: Path | None = None,
    attribute: bool = False,
) -> Generator[ScoreProgress | ScoreDiff, None, None]:
    """Yield a ScoreProgress for each section of a batch, and the ScoreDiff last.

    `tasks` are names of lm-evaluation-harness's tasks and groups, or files of one's own. Both sides
    are computed in `dtype`. `reference` "meta" computes a Hugging Face side as Meta's code does. A
    batch has at most `batch_tokens` tokens, by default what memory has room for. Answers are kept
    in `folder`, if one is given, and read from there the next time. `attribute` traces the causes
    of the difference for one item. The executor should have one worker, which alone imports torch
    and lm_eval. Closing the generator stops. Raises a CkptDiffError.
    """
    comparison = ScoreComparison(
        a, b, tasks if isinstance(tasks, TaskSpec) else TaskSpec(tuple(tasks)), executor,
        dtype=dtype,
        device=device,
        reference=reference,
        batch_tokens=batch_tokens,
        folder=folder,
        attribute=attribute,
    )  # fmt: skip
    yield from comparison.results()


class ScoreComparison:
    """The tasks of a spec on two checkpoints; `so_far` is what is known when it stops or fails."""

    def __init__(
        self,
        a: Assembled,
        b: Assembled,
        spec: TaskSpec,
        executor: Executor,
        *,
        dtype: str = "fp32",
        device: str = "auto",
        reference: str = "hf",
        batch_tokens: int | None = None,
        folder: Path | None = None,
        attribute: bool = False,
    ) -> None:
        """Find both sides' tensors and how they are computed. Raises a CkptDiffError."""
        require("scores")
        self.pair = a, b
        self.spec, self.executor = spec, executor
        self.dtype, self.device, self.reference = dtype, device, reference
        self.batch_tokens, self.folder, self.attribute = batch_tokens, folder, attribute
        self.name = uuid4().hex  # under which the worker keeps the values between jobs
        self.vocabulary = token_count(a, b)
        self.sides = forward_side(a, b, reference), forward_side(b, a, reference)
        self.sections = list(sections_of(self.pair, self.sides))
        models = [side.model for side in self.sides]
        self.cost = Cost(models, self.sections, dtype)
        self.facts, notes = model_facts(a, b)
        self.questions: Questions | None = None
        self.keeps = False  # what is answered, for a run that goes on
        self._notes = list(notes)
        self._left_out = left_out(a, b)
        self._lines: tuple[ConfigDiff, ...] | None = None  # of both configs
        self._started = time.monotonic()

    def results(self) -> Generator[ScoreProgress | ScoreDiff, None, None]:
        """Yield progress, and the ScoreDiff last. Raises a CkptDiffError."""
        self._started = time.monotonic()
        yield self._progress("reading tasks")
        asked = self._ask()
        longest = asked.longest
        self._choose_device(longest)
        free = self._job(jobs.memory_of, self.device)
        most = batch_tokens(self.cost, longest, free, self.batch_tokens, self.device)
        journal = Journal(self.folder, self._fingerprint())
        asked.take(journal.load())
        self.keeps = journal.keeps
        todo = asked.batches(most, shares_prefixes=self._shares_prefixes())
        yield self._progress("reading tasks", note=self._plan(asked, todo))
        yield from self._compute(asked, todo, journal)
        yield self._progress("the table")
        found = self._diff(asked)
        if self.attribute:
            found = yield from self._attributed(found)
        yield found

    def so_far(self, executor: Executor | None = None) -> ScoreDiff | None:
        """Return the result of what is answered, after a stop or an error; None if nothing is.

        `executor` computes it where the comparison's own is still at work. Raises a CkptDiffError.
        """
        if self.questions is None or not self.questions.answers:
            return None
        if executor is not None:
            self.executor = executor
        return self._diff(self.questions)

    @property
    def answered(self) -> tuple[int, int]:
        """How many questions are answered, of how many."""
        asked = self.questions
        return (0, 0) if asked is None else (len(asked.answers), len(asked.all))

    # ── before ───────────────────────────────────────────────────────────────────────────────────

    def _ask(self) -> Questions:
        """Read the tasks. Raises BadArgument if they ask nothing, or a token that a side lacks."""
        try:
            asked: Asked = self._job(ask, self.spec, self.facts, self.folder)
        except WorkerDied as error:
            raise WorkerDied(
                "the worker that read the tasks was killed: memory ran out, or a library failed on "
                "a file of theirs. Ask fewer of them, to see which"
            ) from error
        if not asked.questions:
            raise BadArgument("these tasks ask nothing that has a log-likelihood")
        for question in asked.questions:
            wrong = [i for i in ids_of(question) if not 0 <= i < self.vocabulary]
            if wrong:
                raise BadArgument(
                    f"{self.facts.tokenizer}: gives token {wrong[0]}, and the vocabulary that both "
                    f"sides have ends at {self.vocabulary} tokens: put the model's own tokenizer "
                    "there, or give two checkpoints of one vocabulary"
                )
        self._notes += asked.notes
        self.questions = Questions(asked)
        return self.questions

    def _choose_device(self, longest: int) -> None:
        needed = self.cost.memory(longest, longest, "cuda")
        self.device, note = self._job(jobs.choose_device, self.device, needed)
        self._notes += [note] if note else []

    def _shares_prefixes(self) -> bool:
        """Return whether what follows a position changes nothing at it, in both models."""
        models = [side.model for side in self.sides]
        ropes = (layer.rope for model in models for layer in model.layers if layer.rope is not None)
        by_length = any(rope.kind in ("dynamic", "longrope") for rope in ropes)
        return not by_length and all(model.is_causal for model in models)

    def _fingerprint(self) -> str:
        """Return what answers are kept under. Raises UnreadableFile."""
        kind = self.device.partition(":")[0]
        how = f"scores {VERSION} {self.dtype} {kind} {self.reference} torch {version('torch')}"
        try:
            return fingerprint(self.pair[0].checkpoint, self.pair[1].checkpoint, how)
        except OSError as error:
            raise UnreadableFile(f"{error.filename}: {error.strerror}") from error

    def _plan(self, asked: Questions, todo: Sequence[QuestionBatch]) -> str:
        """Return in a sentence what is to be computed, and what it takes."""
        kept = (
            f"{len(asked.answers):,} of {plural(len(asked.all), 'question')} are kept from before"
        )
        if not todo:
            return kept
        count = sum(len(batch.places) for batch in todo)
        first = f"{kept}; {count:,} are asked" if asked.answers else plural(count, "question")
        sequences = sum(len(batch.sequences) for batch in todo)
        tokens = sum(batch.tokens for batch in todo)
        most = max(batch.tokens for batch in todo)
        weights, memory = map(
            format_bytes, (self.cost.read, self.cost.memory(most, asked.longest, self.device))
        )
        return (
            f"{first}, {plural(sequences, 'sequence')} of {tokens:,} tokens in all; "
            f"{len(todo):,} batch{'es' if todo[1:] else ''}, for each {weights} of weights are "
            f"read; at most {memory} of memory"
        )

    # ── batch by batch ───────────────────────────────────────────────────────────────────────────

    def _compute(
        self, asked: Questions, todo: Sequence[QuestionBatch], journal: Journal
    ) -> Generator[ScoreProgress, None, None]:
        """Compute the batches; yield a ScoreProgress after each section."""
        run = PackedRun(*self.sides, self.dtype, self.device, self.vocabulary, self.name)
        pace = Pace(todo, self.sections)
        rows: tuple[TaskScore, ...] = ()
        is_estimated = False
        for number, batch in enumerate(todo):
            tasks = asked.tasks_of(batch)
            before = asked.finished
            self._job(jobs.begin, run, batch.sequences)
            steps: list[StepApart] = []
            for done, section in enumerate(self.sections):
                started = time.monotonic()
                steps += self._job(jobs.take, run, section)
                spans = self._job(jobs.answers, run, section) if section.part == "last" else None
                pace.took(number, done, time.monotonic() - started)
                if spans is not None:
                    journal.add(*asked.keep(batch, spans, steps))
                    self.keeps = journal.keeps
                    if asked.finished != before and number < len(todo) - 1:
                        rows = self._finished_rows(asked)
                note = ""
                if done >= min(2, len(self.sections) - 2) and not is_estimated:
                    is_estimated = True
                    left = format_duration(pace.left or 0.0)
                    note = f"about {left} for what is left, by the layers measured so far"
                yield replace(
                    self._progress(f"{_some(tasks)}: {_place(section)}", note=note),
                    left=pace.left,
                    rate=pace.rate,
                    batch=number + 1,
                    batches=len(todo),
                    section=done + 1,
                    sections=len(self.sections),
                    tasks=rows,
                )

    def _finished_rows(self, asked: Questions) -> tuple[TaskScore, ...]:
        """Return the scores of the tasks that are answered to their end."""
        finished = asked.finished
        return tuple(row for row in self._score(asked).tasks if row.task in finished)

    def _progress(self, doing: str, *, note: str = "") -> ScoreProgress:
        return ScoreProgress(doing, *self.answered, time.monotonic() - self._started, note=note)

    # ── after ────────────────────────────────────────────────────────────────────────────────────

    @property
    def config(self) -> tuple[ConfigDiff, ...]:
        """The lines of both configs."""
        if self._lines is None:
            self._lines = tuple(compare_configs(*self.pair))
        return self._lines

    def _score(self, asked: Questions) -> Scored:
        """Return the tasks' scores by what is answered, without those of groups of tasks."""
        found: Scored = self._job(score, self.spec, self.facts, asked.answers, self.folder)
        rows = []
        for row in found.tasks:
            if row.task in asked.by_task:
                group, part = place_of(row.task)
                rows.append(replace(row, group=group, part=part))
        return replace(found, tasks=tuple(rows))

    def _diff(self, asked: Questions) -> ScoreDiff:
        """Return the result of all that is answered."""
        scored = self._score(asked)
        reasons = Reasons(self.pair, self.sides, self.reference, self.executor, self.config)
        is_whole = len(asked.answers) == len(asked.all)
        judged = judge(
            self._canonical(asked.in_order()),
            scored.items,
            self.dtype,
            undecided=reasons.undecided(),
            conditions=reasons.conditions,
            cause=lambda step: self._cause(step, reasons, is_whole=is_whole),
            has_experts=any(side.model.routing is not None for side in self.sides),
        )
        notes = [*self._notes, *scored.notes]
        for model in (side.model for side in self.sides):
            notes += [*model.notes, *(one.text for one in model.fixed)]
        notes += self._left_out
        notes += reasons.without_effect() if judged.verdict == "arithmetic" else ()
        return ScoreDiff(
            verdict=judged.verdict,
            sentence=judged.sentence,
            dtype=self.dtype,
            device=self.device,
            tasks=scored.tasks,
            mean=relative_mean(scored.tasks),
            paired=paired(scored.items),
            items=scored.items,
            step=judged.step,
            shown_by=judged.shown_by,
            complete=is_whole,
            conditions=reasons.conditions,
            notes=tuple(dict.fromkeys(notes)),  # both sides may give the same
        )

    def _cause(self, step: StepApart, reasons: Reasons, *, is_whole: bool) -> str:
        """Return in words which tensors of a step differ, or what else is to blame."""
        moving = [line for line in reasons.conflicts if line.moves != frozenset()]
        words = cast_words(self.pair, step, self.executor, is_whole=is_whole, conflicts=len(moving))
        return words or reasons.cause(Tap(step.layer, step.name, step.rel, reads=step.reads))

    def _attributed(self, found: ScoreDiff) -> Generator[ScoreProgress, None, ScoreDiff]:
        """Return the result with what each cause of rounding makes of one item's distance."""
        events = attributed(
            self.pair, found.items, self.executor,
            verdict=found.verdict,
            dtype=self.dtype,
            device=self.device,
            reference=self.reference,
            config=self.config,
        )  # fmt: skip
        while True:
            try:
                step = next(events)
            except StopIteration as end:
                of = end.value
                notes = (*found.notes, *of.notes)
                return replace(found, attribution=of.shares, budget=of.budget, notes=notes)
            yield replace(
                self._progress(f"causes: {step.doing}"), section=step.done, sections=step.total
            )

    def _canonical(self, steps: Sequence[StepApart]) -> list[StepApart]:
        """Return the steps with the canonical names of A's tensors that they read."""
        names = canonical_names(self.pair[0], self.sections)
        return [
            replace(
                step,
                reads=tuple(
                    dict.fromkeys(n for r in step.reads for n in names.get((step.layer, r), ()))
                ),
            )
            for step in steps
        ]

    def _job(self, job: Any, *arguments: Any) -> Any:
        future = self.executor.submit(job, *arguments)
        try:
            return future.result()
        finally:
            future.cancel()


def _place(section: Section) -> str:
    if section.part == "layer":
        return f"layer {section.number}"
    return "embedding" if section.part == "first" else "answers"


def _some(tasks: Sequence[str]) -> str:
    """Return the first of some tasks, and how many more there are."""
    return tasks[0] if len(tasks) == 1 else f"{tasks[0]} and {len(tasks) - 1} more"
