"""Progress of a command on stderr: a counter, a bar. Long work writes a line now and then too."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.text import format_duration, printable

if TYPE_CHECKING:
    from collections.abc import Callable


def counter(doing: str, things: str) -> Callable[[int, int], None] | None:
    """Return a callback (done, total) that counts on stderr, or None if that is no terminal."""
    if not sys.stderr.isatty():
        return None

    def count(done: int, total: int) -> None:
        end = "\r\033[K" if done == total else "\r"
        print(f"\r{doing} {done} of {total} {things}", end=end, file=sys.stderr, flush=True)

    return count


class ProgressBar:
    """One progress bar after another, with the time left; nothing if stderr is no terminal.

    Bytes are shown with their speed, steps with the seconds that one takes.
    """

    def __init__(self, things: Literal["bytes", "steps"], *, shows_what: bool = True) -> None:
        self._things = things
        self._shows_what = shows_what
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns: list[progress.ProgressColumn] = []
            if self._shows_what:
                columns.append(progress.TextColumn("{task.description}", markup=False))
            columns.append(progress.BarColumn())
            if self._things == "bytes":
                columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
            else:
                columns += [
                    progress.MofNCompleteColumn(),
                    progress.TextColumn("{task.fields[rate]}"),
                ]
            columns.append(progress.TimeRemainingColumn())
            self._progress = progress.Progress(
                *columns, console=Console(stderr=True), transient=True
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Replace the last bar by one labelled `what`."""
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.update(self._task, visible=False)
        self._task = self._progress.add_task(what, total=total, rate="")

    def advance(self, by: int, what: str | None = None) -> None:
        """Advance the bar; `what` becomes its label."""
        if self._progress is not None:
            shown = None if what is None else printable(what)
            self._progress.update(self._task, advance=by, description=shown)

    def reach(self, done: int, total: int, *, seconds: float) -> None:
        """Set the bar to `done` of `total`; `seconds` is how long the last step took."""
        if self._progress is not None:
            rate = f"{seconds:.1f} s each"
            self._progress.update(self._task, completed=done, total=total, rate=rate)


_EVERY = 60.0  # seconds between two lines of long work


class LongProgress:
    """Progress of work that may take hours: a bar on a terminal; elsewhere, as in the log of a
    job, a line a minute.

    `things` are what is counted a second.
    """

    def __init__(self, things: str) -> None:
        self._things = things
        self._progress: Any = None
        self._task: Any = None
        self._printed = time.monotonic()

    def __enter__(self) -> LongProgress:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[words]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task("", total=None, words="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence that stays."""
        sentence = printable(sentence)
        if self._progress is not None:
            self._progress.console.print(sentence, markup=False, highlight=False)
        else:
            print(sentence, file=sys.stderr, flush=True)

    def reach(
        self,
        doing: str,
        done: int,
        total: int,
        *,
        part: str = "",
        rate: float | None = None,
        left: float | None = None,
    ) -> None:
        """Show what is being done, and `done` of `total`; `rate` is things a second."""
        words = [part] if part else []
        if rate is not None:
            words.append(f"{rate:.3g} {self._things} a second")
        if left is not None:
            words.append(f"{format_duration(left)} left")
        if self._progress is not None:
            self._progress.update(
                self._task,
                description=printable(doing),
                completed=done,
                total=total or None,
                words=", ".join(words),
            )
        elif left is not None and time.monotonic() - self._printed >= _EVERY:
            self._printed = time.monotonic()
            shown = ", ".join([printable(doing), *words])
            print(shown, file=sys.stderr, flush=True)
