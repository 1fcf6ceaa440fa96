"""One comparison of scores as the screen shows it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckptdiff.scores.groups import place_of, table
from ckptdiff.scores.items import flips_first

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


class ScoreRun:
    """The progress and the result of one comparison of scores. Only the UI thread writes it."""

    def __init__(self, number: int, asked: ScoreRequest, *, clock: Callable[[], float]) -> None:
        self.number = number
        self.asked = asked
        self.state: State = "running"
        self.progress: ScoreProgress | None = None  # the latest
        self.diff: ScoreDiff | None = None
        self.items: tuple[Item, ...] = ()  # of the result: flips first, then by distance
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
        diff: ScoreDiff | None = None,
        error: str | None = None,
    ) -> None:
        self.state, self.diff, self.error = state, diff, error
        self._ended = self._clock()
        if diff is not None:
            self.items = flips_first(diff.items)
            self.notes = tuple(dict.fromkeys((*self.notes, *diff.notes)))

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
        place = (row.group, row.part)
        return found or tuple(item for item in self.items if place_of(item.task) == place)

    def command_line(self, paths: Sequence[Path]) -> str:
        """Return the command line that compares the same scores."""
        asked = self.asked
        words = ["ckptdiff", "scores", *map(str, paths), "--tasks", ",".join(asked.names)]
        if asked.limit is not None:
            words += ["--limit", str(asked.limit)]
        if asked.dtype != "fp32":
            words += ["--dtype", asked.dtype]
        if asked.device != "auto":
            words += ["--device", asked.device]
        return shlex.join(words)
