"""A comparing screen that goes on, when there are differences, to look for their causes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual import work
from textual.worker import Worker, WorkerState

from ckptdiff.tui.screens.comparing import ComparingScreen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.messages import DiagnosisEnded
    from ckptdiff.tui.workers.cancellable import Cancellable


class DiagnosingScreen(ComparingScreen):
    """Owns the worker that looks for causes. It ends with the comparison that it explains.

    Textual calls the `on_` methods of every base class by itself, those of subclasses first.
    """

    def on_mount(self) -> None:
        self._run = 0
        self._jobs: Cancellable | None = None
        self._finder: Worker[None] | None = None

    def on_unmount(self) -> None:
        self._give_up()

    def stop(self) -> None:
        """Stop what runs: looking for causes, or else the comparison."""
        if self.session.diagnosis_state == "looking":
            self._give_up()
            self._diagnosis_ended("stopped")
        else:
            super().stop()

    def _begin(self) -> None:
        self._give_up()
        self.session.forget_diagnosis()
        super()._begin()

    def ended(self) -> None:
        if self.session.phase == "done" and self.session.has_faults:
            self.diagnose()

    def diagnose(self) -> None:
        """Look for the causes of what the comparison found."""
        from ckptdiff.tui.workers.cancellable import Cancellable

        session = self.session
        assert session.a is not None
        assert session.b is not None
        self._give_up()
        self._jobs = Cancellable(lambda: session.executor)
        session.diagnosis_state = "looking"
        results = [session.results[name] for name in session.names]
        self._finder = self._diagnose(self._run, session.a, session.b, results, self._jobs)
        self.state_changed()

    def _give_up(self) -> None:
        """Cancel what runs, and listen to it no longer."""
        self._run += 1
        self._finder = None
        if self._jobs is not None:
            self._jobs.cancel()
            self._jobs = None

    @work(thread=True, exit_on_error=False, group="diagnosis", description="looking for causes")
    def _diagnose(
        self,
        run: int,
        a: Assembled,
        b: Assembled,
        results: Sequence[TensorDiff],
        jobs: Cancellable,
    ) -> None:
        from ckptdiff.tui.workers.diagnose import look_for_causes

        session = self.session
        look_for_causes(
            run,
            self._engine,
            a,
            b,
            results,
            session.config,
            inventory=session.inventory,
            executor=jobs,
            post=self.post_message,
        )

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker is self._finder and event.state is WorkerState.ERROR:
            error = event.worker.error
            words = f"{type(error).__name__}: {error}. This is a bug in ckptdiff."
            self._diagnosis_ended("failed", error=words)

    def on_diagnosis_ended(self, message: DiagnosisEnded) -> None:
        if message.run != self._run:
            return
        session = self.session
        if message.diagnosis is not None:
            session.diagnosis = message.diagnosis
            if session.summary is not None:
                findings = message.diagnosis.findings
                session.summary = replace(session.summary, findings=findings)
        self._diagnosis_ended(message.state, error=message.error)

    def _diagnosis_ended(self, state: str, *, error: str | None = None) -> None:
        self._finder = None
        self.session.diagnosis_state = state  # type: ignore[assignment]
        self.session.diagnosis_error = error
        self.results_changed(rows=False)
        self.state_changed()
