"""One comparison of scores as the screen shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckptdiff.report.score_words import facts
from ckptdiff.scores.groups import place_of, table
from ckptdiff.scores.items import flips_first
from ckptdiff.text import operand, shell_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckptdiff.scores.results import Item, ScoreDiff, ScoreProgress, TaskScore

State = Literal["running", "stopping", "done", "stopped", "failed"]

DTYPES = ("fp32", "fp64", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """What the fields of the screen say."""

    tasks: str  # names of tasks with commas between them, or a FILE.yaml
    limit: int | None = None  # items of each task
    dtype: str = "fp32"
    device: str = "auto"

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, each a name of the harness or the path of a file."""
        return tuple(filter(None, (name.strip() for name in self.tasks.split(","))))


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The result of a run, with what takes a while to work out: made in the worker's thread."""

    diff: ScoreDiff
    items: tuple[Item, ...]  # flips first, then by distance
    facts: tuple[str, ...]  # what the table does not show, in sentences

    @classmethod
    def of(cls, diff: ScoreDiff) -> ScoreResult:
        return cls(diff, flips_first(diff.items), tuple(facts(diff)))


class ScoreRun:
    """The progress and the result of one comparison of scores. Only the UI thread writes it."""

    def __init__(
        self, number: int, asked: ScoreRequest, *, clock: Callable[[], float], keeps: bool = True
    ) -> None:
        self.number = number
        self.asked = asked
        self.keeps = keeps  # what is answered, so that the next run goes on from there
        self.state: State = "running"
        self.progress: ScoreProgress | None = None  # the latest
        self.result: ScoreResult | None = None
        self.notes: tuple[str, ...] = ()
        self.error: str | None = None
        self._rows: dict[tuple[str, str, str, str], TaskScore] = {}
        self._clock = clock
        self._started = clock()
        self._ended: float | None = None

    @property
    def is_busy(self) -> bool:
        return self.state in ("running", "stopping")

    @property
    def diff(self) -> ScoreDiff | None:
        return None if self.result is None else self.result.diff

    @property
    def items(self) -> tuple[Item, ...]:
        """The items of the result: flips first, then by distance."""
        return () if self.result is None else self.result.items

    @property
    def seconds(self) -> float:
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def tasks(self) -> tuple[TaskScore, ...]:
        """Every metric of every task; while it runs, of the tasks that are finished."""
        return tuple(self._rows.values()) if self.diff is None else self.diff.tasks

    def advance(self, progress: ScoreProgress) -> None:
        self.progress = progress
        for row in progress.tasks:
            self._rows[row.group, row.part, row.task, row.metric] = row
        if progress.note:
            self.notes = (*self.notes, progress.note)

    def stop(self) -> None:
        """Wait for the result of the items that have been answered."""
        self.state = "stopping"

    def end(
        self,
        state: Literal["done", "stopped", "failed"],
        result: ScoreResult | None = None,
        error: str | None = None,
    ) -> None:
        self.state, self.result, self.error = state, result, error
        self._ended = self._clock()
        if result is not None:
            self.notes = tuple(dict.fromkeys((*self.notes, *result.diff.notes)))

    def rows(self, *, every_metric: bool) -> tuple[TaskScore, ...]:
        """Return the rows of the table, or of every metric of every task."""
        if every_metric:
            return self.tasks
        return tuple(row for group in table(self.tasks) for row in group.rows)

    def items_of(self, row: TaskScore | None) -> tuple[Item, ...]:
        """Return the items of a row of the table, the mean of a class among them, or all."""
        if row is None:
            return self.items
        found = tuple(item for item in self.items if item.task == row.task)
        if found:
            return found
        tasks = {item.task for item in self.items}
        of_class = {task for task in tasks if place_of(task) == (row.group, row.part)}
        return tuple(item for item in self.items if item.task in of_class)

    def command_line(self, paths: Sequence[Path]) -> str:
        """Return the command line that compares the same scores."""
        asked = self.asked
        words = ["ckptdiff", "scores", *map(operand, paths), "--tasks", ",".join(asked.names)]
        if asked.limit is not None:
            words += ["--limit", str(asked.limit)]
        if asked.dtype != "fp32":
            words += ["--dtype", asked.dtype]
        if asked.device != "auto":
            words += ["--device", asked.device]
        return shell_line(words)
