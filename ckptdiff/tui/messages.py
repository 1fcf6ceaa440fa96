"""The messages that workers post to their runner, and runners to their screen.

`job` and `run` are the number of the worker's run: a runner ignores messages of earlier runs.
Messages from a worker cross threads and are for its runner alone, so they do not bubble.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import LogitDiff, LogitProgress
    from ckptdiff.scores.results import ScoreProgress
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.conversion import Stage
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.model.files import Tally
    from ckptdiff.tui.model.inventory import Inventory
    from ckptdiff.tui.model.score_run import ScoreResult
    from ckptdiff.tui.model.stored import HeldFile, HeldFiles


@dataclass
class HeadersRead(Message, bubble=False):
    """Some more files of a side were read. `done` and `total` count files."""

    job: int
    side: Side
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, HeadersRead) and message.side == self.side


@dataclass
class CheckpointsOpened(Message, bubble=False):
    """Side A is open, or both sides are and their tensors are paired by name."""

    job: int
    inventory: Inventory = field(repr=False)
    a: Assembled = field(repr=False)
    b: Assembled | None = field(repr=False)
    complete: bool  # False: another of these messages follows
    in_part: bool = False  # A holds the tensors of its first file only; the others are being read
    config: tuple[ConfigDiff, ...] = ()  # the lines of the config table, for a pair


@dataclass
class RowsRead(Message, bubble=False):
    """Some more tensors were read to be paired by equal rows. `done` and `total` count tensors."""

    job: int
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, RowsRead) and message.job == self.job


@dataclass
class OptimizerRefused(Message, bubble=False):
    """The optimizer state cannot be compared. The weights are compared without it."""

    job: int
    error: str


@dataclass
class ReadingFailed(Message, bubble=False):
    """A checkpoint could not be opened or assembled."""

    job: int
    error: str


@dataclass
class ComparisonStarted(Message, bubble=False):
    """The cached results were read. These names have none and are compared now."""

    job: int
    names: list[str] = field(repr=False)


@dataclass
class ResultsArrived(Message, bubble=False):
    """There are results in the job's queue. One message may stand for many of them."""

    job: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ResultsArrived) and message.job == self.job


@dataclass
class ComparisonEnded(Message, bubble=False):
    """The comparison is done, was stopped by the user, or failed. No more results will come."""

    job: int
    phase: Literal["stopped", "done", "failed"]
    summary: DiffSummary | None = None
    error: str | None = None


@dataclass
class FilesListed(Message, bubble=False):
    """What each file of a side holds is listed, and how that compares is counted."""

    run: int
    held: HeldFiles = field(repr=False)
    tallies: Mapping[HeldFile, Tally] = field(repr=False)


@dataclass
class DiagnosisEnded(Message, bubble=False):
    """The diagnosis is done, was stopped by the user, or failed."""

    run: int
    state: Literal["done", "stopped", "failed"]
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    error: str | None = None


@dataclass
class PromptRead(Message, bubble=False):
    """A prompt was tokenized. Both models compute it next."""

    run: int
    prompt: Prompt = field(repr=False)


@dataclass
class DevicesFound(Message, bubble=False):
    """The process that computes a prompt has imported torch, which sees these CUDA devices."""

    run: int
    names: tuple[str, ...]


@dataclass
class LogitsAdvanced(Message, bubble=False):
    """Both models have computed one more layer, or another part. The progress holds its taps."""

    run: int
    progress: LogitProgress = field(repr=False)


@dataclass
class LogitsEnded(Message, bubble=False):
    """Comparing logits is done, was stopped by the user, or failed."""

    run: int
    state: Literal["done", "stopped", "failed"]
    diff: LogitDiff | None = field(default=None, repr=False)
    error: str | None = None


@dataclass
class ScoresAdvanced(Message, bubble=False):
    """Some more questions are answered, or a task is finished."""

    run: int
    progress: ScoreProgress = field(repr=False)


@dataclass
class ScoresEnded(Message, bubble=False):
    """Comparing scores is done, was stopped by the user, or failed."""

    run: int
    state: Literal["done", "stopped", "failed"]
    result: ScoreResult | None = field(default=None, repr=False)  # of what is known
    error: str | None = None
    keeps: bool = True  # what was answered, if the run had a folder for it


@dataclass
class PathRead(Message, bubble=False):
    """Some more files were read at a path typed on the open screen."""

    side: Side
    path: Path
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, PathRead) and message.side == self.side


@dataclass
class PathRecognised(Message, bubble=False):
    """A path typed on the open screen was read. `words` describe the checkpoint, or the error."""

    side: Side
    path: Path
    checkpoint: Checkpoint | None = field(repr=False)  # None: it could not be opened
    words: str


@dataclass
class ReportWritten(Message, bubble=False):
    """A report was written to `path`, or could not be."""

    path: Path
    error: str | None = None


@dataclass
class ConversionAdvanced(Message, bubble=False):
    """Some more of a conversion was written or verified."""

    run: int
    stage: Stage
    name: str  # of the file being written, or the tensor being verified
    done: int  # bytes of this stage, without `kept`
    kept: int  # bytes that an earlier, interrupted run has written

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ConversionAdvanced) and message.run == self.run


@dataclass
class ConversionEnded(Message, bubble=False):
    """A conversion is done and verified, was stopped and its files removed, or failed."""

    run: int
    stage: Literal["done", "stopped", "failed"]
    lines: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class SessionChanged(Message):
    """The session has changed. The screen shows it again, as much of it as `what` requires."""

    what: Literal[
        "state",  # the phase, or that of the diagnosis
        "headers",  # the number of files read
        "names",  # the tensors
        "results",  # of tensors, or of the diagnosis
        "rows",  # results, and so which rows the list has, or their order
        "files",  # what each of them holds: the rows of their view
        "compared",  # as "rows", and the comparison has ended
        "prompt",  # the progress or the result of comparing logits
        "scores",  # the same of comparing scores
    ]

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SessionChanged) and message.what == self.what


@dataclass
class ConversionChanged(Message):
    """The conversion has advanced or ended."""

    ended: bool = False
