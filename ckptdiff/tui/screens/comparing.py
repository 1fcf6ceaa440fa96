"""A screen that runs a session's workers: they read and compare, and their messages fill it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from textual import work
from textual.worker import Worker, WorkerState, get_current_worker

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.messages import ReportWritten
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.workers import read_compare as jobs

if TYPE_CHECKING:
    from pathlib import Path

    from textual.timer import Timer

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
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
RESULTS_AT_ONCE = 300  # taken in before keys and painting have their turn
ARRANGE_SHARE = 10  # a live list is sorted again only after this many times the time that takes


class ComparingScreen(BaseScreen[None]):
    """Owns the workers. Only the latest run of each is listened to."""

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
        self._job = 0
        self._fresh = False  # compare everything again, whatever an earlier run found
        self._queue: deque[tuple[TensorDiff, float | None]] = deque()
        self._worker: Worker[None] | None = None
        self._ticks: Timer | None = None
        self._changed = False
        self._arrange_after = 0.0

    @abstractmethod
    def names_changed(self) -> None:
        """Show other names than before."""

    @abstractmethod
    def results_changed(self, *, rows: bool) -> None:
        """Show new results; `rows` says whether which rows there are, or their order, changed."""

    @abstractmethod
    def headers_changed(self) -> None:
        """Show how many files were read."""

    @abstractmethod
    def state_changed(self) -> None:
        """Show how far everything is."""

    def on_mount(self) -> None:
        self._ticks = self.set_interval(REPAINT_SECONDS, self._tick, pause=True)
        self.read_headers()

    def on_unmount(self) -> None:
        self.session.close()

    # ── orders ───────────────────────────────────────────────────────────────────────────────

    def read_headers(self, *, fresh: bool = False) -> None:
        """Read both sides, then compare; `fresh` also compares what an earlier run has compared."""
        self._begin()
        self._fresh = fresh
        self.session.reopen()
        self._worker = self._read(self._job, self._opened)
        self._opened = {}
        self._change()
        self.state_changed()

    def compare(self, a: Assembled, b: Assembled) -> None:
        """Compare the pair that is open."""
        self._begin()
        self._worker = self._compare(self._job, a, b, self._queue, self._fresh)

    def action_stop(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop what runs; what is known stays."""
        self._take_results()
        self._begin()
        self._end("stopped")

    def _begin(self) -> None:
        """Cancel what runs. What it still says is ignored: the next run has another number."""
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        self._job += 1
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

    @work(thread=True, exit_on_error=False, group="report")
    def write_report(self, path: Path) -> None:
        """Write what was compared, once that is everything."""
        from ckptdiff.report.pages import write_report

        session = self.session
        if session.a is None or session.b is None or session.summary is None:
            return
        results = [session.results[name] for name in session.names]
        try:
            write_report(path, session.a, session.b, results, session.summary)
        except CkptDiffError as error:
            self.post_message(ReportWritten(path, str(error)))
        else:
            self.post_message(ReportWritten(path))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A worker that breaks must not look like one that takes long."""
        if event.worker is self._worker and event.state is WorkerState.ERROR:
            error = event.worker.error
            self._end(
                "failed", error=f"{type(error).__name__}: {error}. This is a bug in ckptdiff."
            )

    # ── what the workers say ─────────────────────────────────────────────────────────────────

    def on_headers_read(self, message: HeadersRead) -> None:
        if message.job == self._job:
            self.session.headers[message.side] = (message.done, message.total)
            self.headers_changed()

    def on_checkpoints_opened(self, message: CheckpointsOpened) -> None:
        if message.job != self._job:
            return
        self.session.in_part = message.in_part
        self.session.open(message.inventory, message.a, message.b, message.config)
        if message.complete:
            self.session.phase = "ready"
        self.names_changed()
        self.state_changed()
        if message.complete and message.b is not None:
            self.compare(message.a, message.b)

    def on_rows_read(self, message: RowsRead) -> None:
        if message.job == self._job:
            self.session.phase = "matching"
            self.session.matched = message.done, message.total
            self._change()

    def on_optimizer_refused(self, message: OptimizerRefused) -> None:
        if message.job == self._job:
            self.session.optimizer = False
            words = f"{message.error}. The weights alone are compared."
            self.notify(words, title="No optimizer state", severity="warning", markup=False)

    def on_reading_failed(self, message: ReadingFailed) -> None:
        if message.job == self._job:
            self._end("failed", error=message.error)

    def on_comparison_started(self, message: ComparisonStarted) -> None:
        if message.job == self._job:
            self.session.start(message.names)
            self._take_results()
            self.results_changed(rows=self.session.is_live)
            self.state_changed()

    def on_results_arrived(self, message: ResultsArrived) -> None:
        if message.job == self._job:
            self._take_results(RESULTS_AT_ONCE)
            if self._queue:
                self.post_message(message)

    def on_comparison_ended(self, message: ComparisonEnded) -> None:
        if message.job == self._job:
            self._take_results()
            self._end(message.phase, summary=message.summary, error=message.error)

    def on_report_written(self, message: ReportWritten) -> None:
        if message.error is None:
            self.notify(f"Wrote {message.path}", markup=False)
        else:
            words = f"{message.error}. Press w and choose another path."
            self.notify(words, severity="error", markup=False)

    # ── showing ──────────────────────────────────────────────────────────────────────────────

    def _take_results(self, most: int | None = None) -> None:
        queue = self._queue
        for _ in range(len(queue) if most is None else min(most, len(queue))):
            result, at = queue.popleft()
            self.session.add(result, compared_at=at)
        self._change()

    def _change(self) -> None:
        """Show what changed at the next tick: at most 4 times a second."""
        self._changed = True
        if self._ticks is not None:
            self._ticks.resume()

    def _tick(self) -> None:
        if not self._changed:
            if not self.session.is_busy and self._ticks is not None:
                self._ticks.pause()
            return
        self._changed = False
        self.show_results()
        self.state_changed()

    def show_results(self, *, now: bool = False) -> None:
        """Show what has come in, sorting a live list again if that is not due too often."""
        rows = self.session.is_live and (now or time.monotonic() >= self._arrange_after)
        if rows:
            started = time.monotonic()
            self.session.arrange()
            ended = time.monotonic()
            self._arrange_after = ended + ARRANGE_SHARE * (ended - started)
        elif self.session.is_live:
            self._changed = True
        self.results_changed(rows=rows)

    def _end(self, phase: str, *, summary: object = None, error: str | None = None) -> None:
        self._worker = None
        self.session.finish(phase, summary=summary, error=error)  # type: ignore[arg-type]
        self.show_results(now=True)
        self.state_changed()
        self.ended()

    def ended(self) -> None:
        """Do what is to be done once, when a comparison has ended."""
