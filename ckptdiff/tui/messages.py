"""What workers tell their runner, and runners their screen: past tense, dataclasses.

`job` and `run` number the runs of a worker: what an older one still says is not listened to. What
a worker says crosses threads and goes to its runner alone, so it does not bubble.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import LogitDiff, LogitProgress
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.conversion import Stage
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.model.inventory import Inventory


@dataclass
class HeadersRead(Message, bubble=False):
    """Some more files of a side were read; only the latest of these counts."""

    job: int
    side: Side
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, HeadersRead) and message.side == self.side


@dataclass
class CheckpointsOpened(Message, bubble=False):
    """A side is open, or both are and their names are paired."""

    job: int
    inventory: Inventory = field(repr=False)
    a: Assembled = field(repr=False)
    b: Assembled | None = field(repr=False)
    complete: bool  # False: the first side alone, while the second is being read
    in_part: bool = False  # of the first side only the first file, while the others are being read
    config: tuple[ConfigDiff, ...] = ()  # the lines of the config table, for a pair


@dataclass
class RowsRead(Message, bubble=False):
    """Some more tensors were read, to find equal rows where no rules are used."""

    job: int
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, RowsRead) and message.job == self.job


@dataclass
class OptimizerRefused(Message, bubble=False):
    """The optimizer state cannot be compared as well; the weights are, all the same."""

    job: int
    error: str


@dataclass
class ReadingFailed(Message, bubble=False):
    """A checkpoint could not be opened or assembled."""

    job: int
    error: str


@dataclass
class ComparisonStarted(Message, bubble=False):
    """The results of an earlier run were found, if there are any; these names are compared now."""

    job: int
    names: list[str] = field(repr=False)


@dataclass
class ResultsArrived(Message, bubble=False):
    """There are results in the job's queue; one message may stand for many results."""

    job: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ResultsArrived) and message.job == self.job


@dataclass
class ComparisonEnded(Message, bubble=False):
    """No more results will come: all were compared, the user stopped it, or something broke."""

    job: int
    phase: Literal["stopped", "done", "failed"]
    summary: DiffSummary | None = None
    error: str | None = None


@dataclass
class DiagnosisEnded(Message, bubble=False):
    """The causes were looked for: found or not, stopped by the user, or something broke."""

    run: int
    state: Literal["done", "stopped", "failed"]
    diagnosis: Diagnosis | None = field(default=None, repr=False)
    error: str | None = None


@dataclass
class PromptRead(Message, bubble=False):
    """A prompt is tokens, and both sides are about to be given them."""

    run: int
    prompt: Prompt = field(repr=False)


@dataclass
class LogitsAdvanced(Message, bubble=False):
    """A layer, or another step, of comparing logits is done; each has taps of its own."""

    run: int
    progress: LogitProgress = field(repr=False)


@dataclass
class LogitsEnded(Message, bubble=False):
    """The logits were compared, or that was stopped, or something broke."""

    run: int
    state: Literal["done", "stopped", "failed"]
    diff: LogitDiff | None = field(default=None, repr=False)
    error: str | None = None


@dataclass
class PathRead(Message, bubble=False):
    """Some more files of a path typed on the open screen were read."""

    side: Side
    path: Path
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, PathRead) and message.side == self.side


@dataclass
class PathRecognised(Message, bubble=False):
    """A path typed on the open screen is a checkpoint; without one, `words` say what is wrong."""

    side: Side
    path: Path
    checkpoint: Checkpoint | None = field(repr=False)
    words: str


@dataclass
class ReportWritten(Message, bubble=False):
    """A report lies where it was asked for, or the error says why not."""

    path: Path
    error: str | None = None


@dataclass
class ConversionAdvanced(Message, bubble=False):
    """So much is written or verified; only the latest of these counts."""

    run: int
    stage: Stage
    name: str  # the file that is written, the tensor that is verified
    done: int  # bytes of this stage, those of `kept` left out
    kept: int  # bytes that an earlier run had written

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ConversionAdvanced) and message.run == self.run


@dataclass
class ConversionEnded(Message, bubble=False):
    """The conversion is there and verified, or was stopped and nothing of it is left, or failed."""

    run: int
    stage: Literal["done", "stopped", "failed"]
    lines: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class SessionChanged(Message):
    """A session holds something else than before, or stands elsewhere: show that."""

    what: Literal[
        "state",  # how far everything is
        "headers",  # how many files were read
        "names",  # other tensors than before
        "results",  # of tensors, or what explains them
        "rows",  # results, and with them which rows there are, or their order
        "compared",  # rows, and the comparison has ended
        "prompt",  # how far comparing the logits of a prompt is, or what came out
    ]

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SessionChanged) and message.what == self.what


@dataclass
class ConversionChanged(Message):
    """The conversion is further than it was, or has ended."""

    ended: bool = False
