"""The base class of all runners."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from textual.widget import Widget
from textual.worker import Worker, WorkerState

if TYPE_CHECKING:
    from typing import Any


class Runner(Widget):
    """An invisible widget that runs one worker at a time and numbers its runs.

    Messages of earlier runs are ignored. A runner stores what its worker reports, and posts one
    kind of message to its screen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.display = False
        self.number = 0  # of the current run
        self.worker: Worker[Any] | None = None

    def give_up(self) -> None:
        """Drop the current run: its messages are ignored from now on."""
        self.worker = None
        self.number += 1

    @abstractmethod
    def worker_failed(self, error: str) -> None:
        """Store that the worker failed by a bug of ckptdiff."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Report a worker that raised, which would otherwise look like one that takes long."""
        if event.worker is self.worker and event.state is WorkerState.ERROR:
            error = event.worker.error
            self.worker_failed(f"{type(error).__name__}: {error}. This is a bug in ckptdiff.")
