"""One comparison of logits as the screen shows it, and the history of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ckptdiff.logits.prompt import stated_ids
from ckptdiff.text import operand, option, shell_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import LogitDiff, LogitProgress, Tap

State = Literal["reading", "running", "done", "stopped", "failed"]


class PromptRun:
    """The progress and result of one prompt. Only the UI thread writes it."""

    def __init__(
        self,
        number: int,
        text: str,
        *,
        device: str = "auto",
        attribute: bool,
        clock: Callable[[], float],
    ) -> None:
        self.number = number
        self.text = text
        self.device = device  # auto, cpu or cuda:N
        self.attribute = attribute  # trace the causes of the difference
        self.state: State = "reading"
        self.prompt: Prompt | None = None  # set once it is tokenized
        self.progress: LogitProgress | None = None  # the latest
        self.taps: Sequence[Tap] = ()  # those computed so far
        self.diff: LogitDiff | None = None
        self.notes: tuple[str, ...] = ()
        self.error: str | None = None
        self._clock = clock
        self._started = clock()
        self._ended: float | None = None

    @property
    def is_busy(self) -> bool:
        return self.state in ("reading", "running")

    @property
    def seconds(self) -> float:
        return (self._clock() if self._ended is None else self._ended) - self._started

    def start(self, prompt: Prompt) -> None:
        self.state, self.prompt = "running", prompt

    def advance(self, progress: LogitProgress) -> None:
        self.progress = progress
        self.taps = (*self.taps, *progress.taps)
        if progress.note:
            self.notes = (*self.notes, progress.note)

    def end(
        self,
        state: Literal["done", "stopped", "failed"],
        diff: LogitDiff | None = None,
        error: str | None = None,
    ) -> None:
        self.state, self.diff, self.error = state, diff, error
        self._ended = self._clock()
        if diff is not None:
            self.taps = diff.taps
            self.notes = tuple(dict.fromkeys((*self.notes, *diff.notes)))

    def command_line(self, paths: Sequence[Path]) -> str:
        """Return the command line that compares the same logits."""
        words = ["ckptdiff", "logits", *map(operand, paths)]
        stated = stated_ids(self.text)
        if stated is not None:
            words += ["--ids", ",".join(map(str, stated))]
        elif self.prompt is not None and not self.prompt.texts:
            words += ["--ids", self.text.replace(" ", "")]
        else:
            words += option("--prompt", self.text)
        if self.device != "auto":
            words += ["--device", self.device]
        return shell_line([*words, "--attribute"] if self.attribute else words)


class PromptHistory:
    """The prompts since the app started. They may be private, so they are never saved."""

    def __init__(self) -> None:
        self._earlier: list[str] = []
        self._at = 0  # index of the prompt shown; the length: what is being typed
        self._draft = ""  # what was being typed before going back

    def add(self, text: str) -> None:
        """Append a prompt; an equal earlier one is removed."""
        if text in self._earlier:
            self._earlier.remove(text)
        self._earlier.append(text)
        self._at = len(self._earlier)

    def go(self, step: Literal[1, -1], typed: str) -> str:
        """Return the previous or next prompt; after the last one, what was being typed."""
        if self._at == len(self._earlier):
            self._draft = typed
        self._at = max(0, min(self._at + step, len(self._earlier)))
        return self._draft if self._at == len(self._earlier) else self._earlier[self._at]
