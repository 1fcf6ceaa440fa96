"""What every runner has: a worker, the number of its run, and a word for one that breaks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from textual.widget import Widget
from textual.worker import Worker, WorkerState

if TYPE_CHECKING:
    from typing import Any


class Runner(Widget):
    """Runs one job at a time, and numbers them: what an older one still says is dropped.

    Jobs speak to their runner by messages of many kinds, and it to its screen by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.display = False
        self.number = 0  # of the run that is listened to
        self.worker: Worker[Any] | None = None

    def give_up(self) -> None:
        """Listen no longer to what runs."""
        self.worker = None
        self.number += 1

    @abstractmethod
    def broke(self, words: str) -> None:
        """Take down that the worker broke by a mistake of ours."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A worker that breaks must not look like one that takes long."""
        if event.worker is self.worker and event.state is WorkerState.ERROR:
            error = event.worker.error
            self.broke(f"{type(error).__name__}: {error}. This is a bug in ckptdiff.")
