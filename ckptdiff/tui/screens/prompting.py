"""A comparing screen that gives both sides a prompt on the side, and keeps what comes of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from textual import work
from textual.worker import Worker, WorkerState

from ckptdiff.tui.model.prompt_run import PromptRun
from ckptdiff.tui.screens.diagnosing import DiagnosingScreen

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.messages import LogitsAdvanced, LogitsEnded, PromptRead
    from ckptdiff.tui.workers.cancellable import Cancellable


class PromptingScreen(DiagnosingScreen):
    """Owns the worker that compares logits: it goes on whatever screens come and go above."""

    prompt_run: PromptRun | None = None  # the latest

    def on_mount(self) -> None:
        self._runs = 0
        self._asker: Worker[None] | None = None
        self._layers: Cancellable | None = None
        self._torch: Executor | None = None
        self._torch_lock = threading.Lock()

    def on_unmount(self) -> None:
        self._leave_prompt()
        with self._torch_lock:
            if self._torch is not None:
                self._torch.shutdown(wait=False, cancel_futures=True)

    def read_headers(self, *, fresh: bool = False) -> None:
        if fresh:  # other files than those that the prompt was given to, maybe
            self._leave_prompt()
            self.prompt_run = None
            self._tell()
        super().read_headers(fresh=fresh)

    @property
    def is_asking(self) -> bool:
        return self.prompt_run is not None and self.prompt_run.is_busy

    # ── orders ───────────────────────────────────────────────────────────────────────────────

    def ask(self, text: str, *, attribute: bool = False) -> None:
        """Give both sides a prompt; what an earlier one was about to tell is not waited for."""
        from ckptdiff.tui.workers.cancellable import Cancellable

        session = self.session
        assert session.a is not None
        assert session.b is not None
        self._leave_prompt()
        self.prompt_run = PromptRun(self._runs, text, attribute=attribute, clock=self.app.clock)
        self._layers = Cancellable(self._torch_executor)
        self._asker = self._ask(self.prompt_run, session.a, session.b, self._layers)
        self._tell()

    def stop_prompt(self) -> None:
        """Stop comparing logits; the taps that are known stay."""
        if self.prompt_run is not None and self.is_asking:
            self._leave_prompt()
            self.prompt_run.end("stopped")
            self._tell()

    def _leave_prompt(self) -> None:
        """Cancel what runs, and listen to it no longer."""
        self._runs += 1
        self._asker = None
        if self._layers is not None:
            self._layers.cancel()
            self._layers = None

    def _torch_executor(self) -> Executor:
        with self._torch_lock:
            if self._torch is None:
                self._torch = self._engine.torch_executor()
            return self._torch

    @work(thread=True, exit_on_error=False, group="logits", description="comparing logits")
    def _ask(self, run: PromptRun, a: Assembled, b: Assembled, layers: Cancellable) -> None:
        from ckptdiff.tui.workers import logits as logit_jobs

        logit_jobs.ask(
            run.number,
            self._engine,
            a,
            b,
            run.text,
            attribute=run.attribute,
            executor=layers,
            post=self.post_message,
        )

    # ── what the worker says ─────────────────────────────────────────────────────────────────

    def _named(self, number: int) -> PromptRun | None:
        run = self.prompt_run
        return run if run is not None and run.number == number == self._runs else None

    def on_prompt_read(self, message: PromptRead) -> None:
        if run := self._named(message.run):
            run.start(message.prompt)
            self._tell()

    def on_logits_advanced(self, message: LogitsAdvanced) -> None:
        if run := self._named(message.run):
            run.advance(message.progress)
            if message.progress.note:
                self.app.notify(message.progress.note, title="Logits", timeout=10, markup=False)
            self._tell()

    def on_logits_ended(self, message: LogitsEnded) -> None:
        if run := self._named(message.run):
            run.end(message.state, message.diff, message.error)
            self._ended_prompt(run)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker is self._asker and event.state is WorkerState.ERROR and self.prompt_run:
            error = event.worker.error
            words = f"{type(error).__name__}: {error}. This is a bug in ckptdiff."
            self.prompt_run.end("failed", error=words)
            self._ended_prompt(self.prompt_run)

    def _ended_prompt(self, run: PromptRun) -> None:
        """Tell what came out, where nobody looks in a toast."""
        from ckptdiff.tui.screens.logits import LogitsScreen
        from ckptdiff.tui.text.logits import headline

        if not any(isinstance(screen, LogitsScreen) for screen in self.app.screen_stack):
            severity = "error" if run.state == "failed" else "information"
            self.app.notify(
                f"{headline(run)}   p shows it.",
                title="Logits",
                severity=severity,  # type: ignore[arg-type]
                timeout=10,
                markup=False,
            )
        self._tell()

    def _tell(self) -> None:
        """Tell the screens that show it."""
        for screen in self.app.screen_stack:
            changed = getattr(screen, "logits_changed", None)
            if changed is not None:
                changed()
