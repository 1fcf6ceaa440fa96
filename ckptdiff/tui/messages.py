"""What workers tell the screens: past tense, dataclasses, on their way between threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assemble import Assembled
    from ckptdiff.diff import Summary
    from ckptdiff.tensors import Checkpoint
    from ckptdiff.tui.session import Side


@dataclass
class HeadersRead(Message):
    """Some more files of a side were read; only the latest of these counts."""

    side: Side
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, HeadersRead) and message.side == self.side


@dataclass
class SideOpened(Message):
    """One side is open; its names can be shown while the other is being read."""

    side: Side
    assembled: Assembled


@dataclass
class PairOpened(Message):
    """Both sides are open and their names are paired."""

    a: Assembled
    b: Assembled
    names: list[str]


@dataclass
class ResultsArrived(Message):
    """There are results in the screen's queue; one message may stand for many results."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ResultsArrived)


@dataclass
class ComparisonEnded(Message):
    """No more results will come: all were compared, the user stopped it, or something broke."""

    phase: Literal["stopped", "done", "failed"]
    summary: Summary | None = None
    error: str | None = None


@dataclass
class ReadingFailed(Message):
    """A checkpoint could not be opened or assembled."""

    error: str


@dataclass
class PathRecognised(Message):
    """A path typed on the open screen is a checkpoint, or is not."""

    side: Side
    path: Path
    checkpoint: Checkpoint | None
    words: str  # what it is, or what is wrong and what to do


@dataclass
class PathRead(Message):
    """Some more files of a path typed on the open screen were read."""

    side: Side
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, PathRead) and message.side == self.side


@dataclass
class ReportWritten(Message):
    """A report lies where it was asked for, or the error says why not."""

    path: Path
    error: str | None = None
