"""How far a command is, on stderr if that is a terminal: a counter of files, a bar of bytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable


def counter(doing: str, things: str) -> Callable[[int, int], None] | None:
    """Return what counts on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        return None

    def count(done: int, total: int) -> None:
        end = "\r\033[K" if done == total else "\r"
        print(f"\r{doing} {done} of {total} {things}", end=end, file=sys.stderr, flush=True)

    return count


class ProgressBar:
    """One bar after another, with the time left; nothing if stderr is no terminal.

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
                columns.append(progress.TextColumn("{task.description}"))
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
        """Show a bar in the place of the last one."""
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.update(self._task, visible=False)
        self._task = self._progress.add_task(what, total=total, rate="")

    def advance(self, by: int, what: str | None = None) -> None:
        """Move the bar on; `what` is being done from here on."""
        if self._progress is not None:
            self._progress.update(self._task, advance=by, description=what)

    def reach(self, done: int, total: int, *, seconds: float) -> None:
        """Put the bar where it is; the last step took so many seconds."""
        if self._progress is not None:
            rate = f"{seconds:.1f} s each"
            self._progress.update(self._task, completed=done, total=total, rate=rate)
