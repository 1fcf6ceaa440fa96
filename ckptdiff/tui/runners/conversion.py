"""The runner that converts in the background, whichever screens are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work
from textual.worker import get_current_worker

from ckptdiff.tui.messages import ConversionChanged
from ckptdiff.tui.model.conversion import ConversionRun
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.timer import Timer

    from ckptdiff.tui.messages import ConversionAdvanced, ConversionEnded
    from ckptdiff.tui.model.conversion import ConversionPlan
    from ckptdiff.tui.workers.engine import Engine

REPAINT_SECONDS = 0.25


class ConversionRunner(Runner):
    """Runs the worker that converts, one conversion at a time.

    It reports progress at most 4 times a second.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        super().__init__()
        self.run: ConversionRun | None = None  # the current one, or else the last one
        self._engine = engine
        self._clock = clock
        self._repaint: Timer | None = None

    @property
    def is_busy(self) -> bool:
        return self.run is not None and self.run.is_busy

    def convert(self, plan: ConversionPlan, reference: Path | None = None) -> ConversionRun:
        """Start a planned conversion. Its result should be the same as `reference`, if given."""
        assert not self.is_busy
        self.number += 1
        self.run = ConversionRun(self.number, plan, self._clock, reference)
        self.worker = self._convert(self.run)
        self.post_message(ConversionChanged())
        return self.run

    def stop(self) -> None:
        """Stop the conversion. It removes what it has written, which may take a moment."""
        if self.run is not None and self.run.is_busy and self.worker is not None:
            self.run.stage = "stopping"
            self.worker.cancel()
            self.post_message(ConversionChanged())

    # ── the worker ───────────────────────────────────────────────────────────────────────────

    @work(thread=True, exit_on_error=False, group="convert", description="converting")
    def _convert(self, run: ConversionRun) -> None:
        from ckptdiff.tui.workers import convert as conversion_jobs

        worker = get_current_worker()
        conversion_jobs.run_conversion(
            run.number,
            self._engine,
            run.conversion,
            post=self.post_message,
            is_cancelled=lambda: worker.is_cancelled,
        )

    def on_conversion_advanced(self, message: ConversionAdvanced) -> None:
        run = self.run
        if run is not None and message.run == self.number and run.is_busy:
            run.advance(message.stage, message.name, message.done, message.kept)
            if self._repaint is None:
                self._repaint = self.set_timer(REPAINT_SECONDS, self._show)

    def on_conversion_ended(self, message: ConversionEnded) -> None:
        if self.run is not None and message.run == self.number:
            self.run.end(message.stage, message.lines, message.error)
            self._show(ended=True)

    def worker_failed(self, error: str) -> None:
        if self.run is not None:
            self.run.end("failed", (), error)
            self._show(ended=True)

    def _show(self, *, ended: bool = False) -> None:
        if self._repaint is not None:
            self._repaint.stop()
            self._repaint = None
        self.post_message(ConversionChanged(ended))
