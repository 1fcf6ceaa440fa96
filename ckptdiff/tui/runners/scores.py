"""The runner that compares benchmark scores, whichever screens are open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual import work

from ckptdiff.tui.keymap import key
from ckptdiff.tui.messages import SessionChanged
from ckptdiff.tui.model.pool import Pool
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.messages import DevicesFound, ScoresAdvanced, ScoresEnded
    from ckptdiff.tui.model.score_run import ScoreRequest, ScoreResult, ScoreRun
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine


class ScoreRunner(Runner):
    """Runs the worker that compares scores, and owns the process that imports torch for it."""

    def __init__(self, session: Session, engine: Engine, folder: Path | None = None) -> None:
        """`folder` keeps the answers as they come, so that a run that was stopped goes on."""
        super().__init__()
        self.session = session
        self.run: ScoreRun | None = None  # the latest
        self.is_shown = False  # on a screen; otherwise a notification shows the outcome
        self.devices: tuple[str, ...] = ("auto", "cpu")  # from the first run on, torch's too
        self._engine = engine
        self._folder = folder
        self._answering: Cancellable | None = None
        self._closing_up: Cancellable | None = None
        self._torch = Pool(engine.torch_executor)

    def on_unmount(self) -> None:
        self.give_up()
        self._torch.close()

    @property
    def is_busy(self) -> bool:
        return self.run is not None and self.run.is_busy

    # ── start and stop ───────────────────────────────────────────────────────────────────────

    def ask(self, asked: ScoreRequest) -> None:
        """Start comparing scores. An earlier run is dropped; its answers are kept on disk."""
        from ckptdiff.tui.model.score_run import ScoreRun
        from ckptdiff.tui.workers.cancellable import Cancellable

        session = self.session
        assert session.a is not None
        assert session.b is not None
        self.give_up()
        keeps = self._folder is not None
        self.run = ScoreRun(self.number, asked, clock=session.clock, keeps=keeps)
        self._answering = Cancellable(self._torch.get)
        self._closing_up = Cancellable(self._torch.get)
        self.worker = self._compare(
            self.run, session.a, session.b, self._answering, self._closing_up
        )
        self.post_message(SessionChanged("scores"))

    def stop(self) -> None:
        """Stop; the result of what has been answered comes. A second call does without it."""
        if self.run is None or self._answering is None or not self.is_busy:
            return
        if self.run.state == "stopping":
            self.give_up()
            self.run.end("stopped")
        else:
            self.run.stop()
            self._answering.cancel()
        self.post_message(SessionChanged("scores"))

    def forget(self) -> None:
        """Drop the run and its result, since the files may have changed."""
        self.give_up()
        self.run = None
        self.post_message(SessionChanged("scores"))

    def give_up(self) -> None:
        super().give_up()
        for jobs in (self._closing_up, self._answering):
            if jobs is not None:
                jobs.cancel()
        self._answering = self._closing_up = None

    # ── the worker ───────────────────────────────────────────────────────────────────────────

    @work(thread=True, exit_on_error=False, group="scores", description="comparing scores")
    def _compare(
        self,
        run: ScoreRun,
        a: Assembled,
        b: Assembled,
        answering: Cancellable,
        closing_up: Cancellable,
    ) -> None:
        from ckptdiff.tui.workers import scores as score_jobs

        score_jobs.compare(
            run.number,
            self._engine,
            a,
            b,
            run.asked,
            folder=self._folder,
            answering=answering,
            closing_up=closing_up,
            post=self.post_message,
        )

    # ── messages of the worker ───────────────────────────────────────────────────────────────

    def _current(self, number: int) -> ScoreRun | None:
        """Return the current run if it has this number."""
        return self.run if number == self.number else None

    def on_devices_found(self, message: DevicesFound) -> None:
        self.devices = ("auto", "cpu", *message.names)
        self.post_message(SessionChanged("scores"))

    def on_scores_advanced(self, message: ScoresAdvanced) -> None:
        if run := self._current(message.run):
            run.advance(message.progress)
            if message.progress.note:
                self.notify(message.progress.note, title="Scores", timeout=10, markup=False)
            self.post_message(SessionChanged("scores"))

    def on_scores_ended(self, message: ScoresEnded) -> None:
        if run := self._current(message.run):
            run.keeps = run.keeps and message.keeps
            self._end(message.state, message.result, message.error)

    def worker_failed(self, error: str) -> None:
        self._end("failed", error=error)

    def _end(
        self,
        state: Literal["done", "stopped", "failed"],
        result: ScoreResult | None = None,
        error: str | None = None,
    ) -> None:
        from ckptdiff.tui.text.scores import headline

        run = self.run
        if run is None:
            return
        run.end(state, result, error)
        if not self.is_shown:
            self.notify(
                f"{headline(run)}   {key('tensors.scores', '5')} shows it.",
                title="Scores",
                severity="error" if run.state == "failed" else "information",
                timeout=10,
                markup=False,
            )
        self.post_message(SessionChanged("scores"))
