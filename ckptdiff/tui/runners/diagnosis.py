"""The runner that diagnoses the differences of a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual import work

from ckptdiff.tui.messages import SessionChanged
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.messages import DiagnosisEnded
    from ckptdiff.tui.model.diagnosis import State
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine


class DiagnosisRunner(Runner):
    """Runs the worker that diagnoses."""

    def __init__(self, session: Session, engine: Engine) -> None:
        super().__init__()
        self.session = session
        self._engine = engine
        self._jobs: Cancellable | None = None

    def on_unmount(self) -> None:
        self.give_up()

    # ── start and stop ───────────────────────────────────────────────────────────────────────

    def diagnose(self) -> None:
        """Start the diagnosis of a complete comparison."""
        from ckptdiff.tui.workers.cancellable import Cancellable

        session = self.session
        assert session.a is not None
        assert session.b is not None
        self.give_up()
        self._jobs = Cancellable(lambda: session.executor)
        session.diagnosis_state = "looking"
        results = [session.results[name] for name in session.names]
        self.worker = self._diagnose(self.number, session.a, session.b, results, self._jobs)
        self.post_message(SessionChanged("state"))

    def stop(self) -> None:
        """Stop the diagnosis."""
        self.give_up()
        self._end("stopped")

    def forget(self) -> None:
        """Stop and drop the diagnosis, before its tensors are compared again."""
        self.give_up()
        self.session.forget_diagnosis()

    def give_up(self) -> None:
        super().give_up()
        if self._jobs is not None:
            self._jobs.cancel()
            self._jobs = None

    # ── the worker ───────────────────────────────────────────────────────────────────────────

    @work(thread=True, exit_on_error=False, group="diagnosis", description="looking for causes")
    def _diagnose(
        self,
        run: int,
        a: Assembled,
        b: Assembled,
        results: Sequence[TensorDiff],
        jobs: Cancellable,
    ) -> None:
        from ckptdiff.comparison.saved_hashes import damage
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
            known=() if session.summary is None else damage(session.summary.hashes),
        )

    def on_diagnosis_ended(self, message: DiagnosisEnded) -> None:
        if message.run != self.number:
            return
        session = self.session
        if message.diagnosis is not None:
            session.diagnosis = message.diagnosis
            if session.summary is not None:
                findings = message.diagnosis.findings
                session.summary = replace(session.summary, findings=findings)
        self._end(message.state, error=message.error)

    def worker_failed(self, error: str) -> None:
        self._end("failed", error=error)

    def _end(self, state: State, *, error: str | None = None) -> None:
        self.worker = None
        self.session.diagnosis_state = state
        self.session.diagnosis_error = error
        self.post_message(SessionChanged("results"))
