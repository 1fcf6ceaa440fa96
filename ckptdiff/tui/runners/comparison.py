"""The runner that reads both sides, compares them, and fills the session."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Literal

from textual import work
from textual.worker import get_current_worker

from ckptdiff.tui.messages import SessionChanged
from ckptdiff.tui.runners.base import Runner
from ckptdiff.tui.workers import read_compare as jobs

if TYPE_CHECKING:
    from pathlib import Path

    from textual.timer import Timer

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.messages import (
        CheckpointsOpened,
        ComparisonEnded,
        ComparisonStarted,
        HeadersRead,
        OptimizerRefused,
        ReadingFailed,
        ResultsArrived,
        RowsRead,
    )
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.workers.engine import Engine

REPAINT_SECONDS = 0.25
RESULTS_AT_ONCE = 300  # added before Textual handles keys and paints again
ARRANGE_PAUSE = 10  # times the seconds of sorting a live list, before it is sorted again


class ComparisonRunner(Runner):
    """Runs the worker that reads, then the one that compares.

    It has the screen show results at most 4 times a second.
    """

    def __init__(
        self,
        session: Session,
        engine: Engine,
        *,
        opened: dict[Path, Checkpoint] | None = None,
        history: Path | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self._engine = engine
        self._opened = dict(opened or {})
        self._history = history
        self._fresh = False  # compare everything, also what has a cached result
        # Results that the worker has appended; a time is of a cached one.
        self._queue: deque[tuple[TensorDiff, float | None]] = deque()
        self._ticks: Timer | None = None
        self._has_changed = False  # since the screen was last updated
        self._arrange_after = 0.0  # monotonic seconds: a live list is not sorted before

    def on_mount(self) -> None:
        self._ticks = self.set_interval(REPAINT_SECONDS, self._tick, pause=True)

    # ── start and stop ───────────────────────────────────────────────────────────────────────

    def read_headers(self, *, fresh: bool = False) -> None:
        """Read both sides, then compare them; `fresh` ignores and drops cached results."""
        self.give_up()
        self._fresh = fresh
        self.session.reopen()
        self.worker = self._read(self.number, self._opened)
        self._opened = {}
        self._show_soon()
        self.post_message(SessionChanged("state"))

    def stop(self) -> None:
        """Stop reading or comparing. The results so far stay."""
        self._take_results()
        self.give_up()
        self._end("stopped")

    def give_up(self) -> None:
        if self.worker is not None:
            self.worker.cancel()
        super().give_up()
        self._queue = deque()

    # ── workers ──────────────────────────────────────────────────────────────────────────────

    # Without a description, Textual makes one of all arguments: seconds for a large checkpoint.
    @work(thread=True, exclusive=True, exit_on_error=False, group="session", description="reading")
    def _read(self, job: int, opened: dict[Path, Checkpoint]) -> None:
        worker = get_current_worker()
        jobs.read(
            job,
            self._engine,
            self.session.paths,
            opened,
            optimizer=self.session.optimizer,
            adapter=self.session.adapter,
            executor=lambda: self.session.executor,
            post=self.post_message,
            is_cancelled=lambda: worker.is_cancelled,
        )

    @work(
        thread=True,
        exclusive=True,
        exit_on_error=False,
        group="session",
        description="comparing",
    )
    def _compare(
        self,
        job: int,
        a: Assembled,
        b: Assembled,
        results: deque[tuple[TensorDiff, float | None]],
        fresh: bool,  # noqa: FBT001 - `work` passes no keywords on
    ) -> None:
        worker = get_current_worker()
        session = self.session
        jobs.compare(
            job,
            self._engine,
            a,
            b,
            session.names,
            results=results,
            history=self._history,
            fresh=fresh,
            tolerance=session.tolerance,
            optimizer=session.optimizer,
            executor=lambda: session.executor,
            first=lambda: session.visible,
            post=self.post_message,
            is_cancelled=lambda: worker.is_cancelled,
        )

    # ── messages of the workers ──────────────────────────────────────────────────────────────

    def on_headers_read(self, message: HeadersRead) -> None:
        if message.job == self.number:
            self.session.headers[message.side] = (message.done, message.total)
            self.post_message(SessionChanged("headers"))

    def on_checkpoints_opened(self, message: CheckpointsOpened) -> None:
        if message.job != self.number:
            return
        self.session.in_part = message.in_part
        self.session.open(message.inventory, message.a, message.b, message.config)
        if message.complete:
            self.session.phase = "ready"
        self.post_message(SessionChanged("names"))
        if message.complete and message.b is not None:
            self.give_up()
            self.worker = self._compare(self.number, message.a, message.b, self._queue, self._fresh)

    def on_rows_read(self, message: RowsRead) -> None:
        if message.job == self.number:
            self.session.phase = "matching"
            self.session.matched = message.done, message.total
            self._show_soon()

    def on_optimizer_refused(self, message: OptimizerRefused) -> None:
        if message.job == self.number:
            self.session.optimizer = False
            words = f"{message.error}. The weights alone are compared."
            self.notify(words, title="No optimizer state", severity="warning", markup=False)

    def on_reading_failed(self, message: ReadingFailed) -> None:
        if message.job == self.number:
            self._end("failed", error=message.error)

    def on_comparison_started(self, message: ComparisonStarted) -> None:
        if message.job == self.number:
            self.session.start(message.names)
            self._take_results()
            self.post_message(SessionChanged("rows" if self.session.is_live else "results"))

    async def on_results_arrived(self, message: ResultsArrived) -> None:
        if message.job == self.number:
            self._take_results(RESULTS_AT_ONCE)
            if self._queue:
                await asyncio.sleep(0)
                self.post_message(message)

    def on_comparison_ended(self, message: ComparisonEnded) -> None:
        if message.job == self.number:
            self._take_results()
            self._end(message.phase, summary=message.summary, error=message.error)

    def worker_failed(self, error: str) -> None:
        self._end("failed", error=error)

    # ── the session ──────────────────────────────────────────────────────────────────────────

    def _take_results(self, most: int | None = None) -> None:
        """Add queued results to the session, at most `most`."""
        queue = self._queue
        for _ in range(len(queue) if most is None else min(most, len(queue))):
            result, compared_at = queue.popleft()
            self.session.add(result, compared_at=compared_at)
        self._show_soon()

    def _show_soon(self) -> None:
        """Have the screen updated at the next tick."""
        self._has_changed = True
        if self._ticks is not None:
            self._ticks.resume()

    def _tick(self) -> None:
        if self._has_changed:
            self._has_changed = False
            self.post_message(SessionChanged(self._arrange()))
        elif not self.session.is_busy and self._ticks is not None:
            self._ticks.pause()

    def _arrange(self) -> Literal["rows", "results"]:
        """Sort a live list again, unless it was sorted just now; return what has changed."""
        if not self.session.is_live:
            return "results"
        started = time.monotonic()
        if started < self._arrange_after:
            self._has_changed = True
            return "results"
        self.session.arrange()
        ended = time.monotonic()
        self._arrange_after = ended + ARRANGE_PAUSE * (ended - started)
        return "rows"

    def _end(
        self,
        phase: Literal["stopped", "done", "failed"],
        *,
        summary: DiffSummary | None = None,
        error: str | None = None,
    ) -> None:
        self.worker = None
        self.session.finish(phase, summary=summary, error=error)
        if phase == "done" and self.session.has_faults:
            self.session.diagnosis_state = (
                "looking"  # the screen starts the diagnosis at this message
            )
        if self.session.is_live:
            self.session.arrange()
        self.post_message(SessionChanged("compared"))
