"""The runner that compares the logits of a prompt, whichever screens are open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual import work

from ckptdiff.tui.keymap import key
from ckptdiff.tui.messages import SessionChanged
from ckptdiff.tui.model.pool import Pool
from ckptdiff.tui.model.prompt_run import PromptRun
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import LogitDiff
    from ckptdiff.tui.messages import DevicesFound, LogitsAdvanced, LogitsEnded, PromptRead
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine


class PromptRunner(Runner):
    """Runs the worker that compares logits, and owns the process that imports torch."""

    def __init__(self, session: Session, engine: Engine) -> None:
        super().__init__()
        self.session = session
        self.run: PromptRun | None = None  # the latest
        self.is_shown = False  # on the logits screen; otherwise a notification shows the outcome
        self.device = "auto"  # that computes the next prompt
        self.devices: tuple[str, ...] = ("auto", "cpu")  # from the first prompt on, torch's too
        self._engine = engine
        self._jobs: Cancellable | None = None
        self._torch = Pool(engine.torch_executor)

    def on_unmount(self) -> None:
        self.give_up()
        self._torch.close()

    @property
    def is_asking(self) -> bool:
        return self.run is not None and self.run.is_busy

    # ── start and stop ───────────────────────────────────────────────────────────────────────

    def ask(self, text: str, *, attribute: bool = False) -> None:
        """Start comparing the logits of a prompt. An earlier run is dropped."""
        from ckptdiff.tui.workers.cancellable import Cancellable

        session = self.session
        assert session.a is not None
        assert session.b is not None
        self.give_up()
        self.run = PromptRun(
            self.number, text, device=self.device, attribute=attribute, clock=session.clock
        )
        self._jobs = Cancellable(self._torch.get)
        self.worker = self._ask(self.run, session.a, session.b, self._jobs)
        self.post_message(SessionChanged("prompt"))

    def stop(self) -> None:
        """Stop comparing logits. The taps computed so far stay."""
        if self.run is not None and self.is_asking:
            self.give_up()
            self.run.end("stopped")
            self.post_message(SessionChanged("prompt"))

    def forget(self) -> None:
        """Drop the run and its result, since the files may have changed."""
        self.give_up()
        self.run = None
        self.post_message(SessionChanged("prompt"))

    def give_up(self) -> None:
        super().give_up()
        if self._jobs is not None:
            self._jobs.cancel()
            self._jobs = None

    # ── the worker ───────────────────────────────────────────────────────────────────────────

    @work(thread=True, exit_on_error=False, group="logits", description="comparing logits")
    def _ask(self, run: PromptRun, a: Assembled, b: Assembled, layers: Cancellable) -> None:
        from ckptdiff.tui.workers import logits as logit_jobs

        logit_jobs.ask(
            run.number,
            self._engine,
            a,
            b,
            run.text,
            device=run.device,
            attribute=run.attribute,
            executor=layers,
            post=self.post_message,
        )

    # ── messages of the worker ───────────────────────────────────────────────────────────────

    def _current(self, number: int) -> PromptRun | None:
        """Return the current run if it has this number."""
        return self.run if number == self.number else None

    def on_prompt_read(self, message: PromptRead) -> None:
        if run := self._current(message.run):
            run.start(message.prompt)
            self.post_message(SessionChanged("prompt"))

    def on_devices_found(self, message: DevicesFound) -> None:
        self.devices = ("auto", "cpu", *message.names)
        self.post_message(SessionChanged("prompt"))

    def on_logits_advanced(self, message: LogitsAdvanced) -> None:
        if run := self._current(message.run):
            run.advance(message.progress)
            if message.progress.note:
                self.notify(message.progress.note, title="Logits", timeout=10, markup=False)
            self.post_message(SessionChanged("prompt"))

    def on_logits_ended(self, message: LogitsEnded) -> None:
        if self._current(message.run):
            self._end(message.state, message.diff, message.error)

    def worker_failed(self, error: str) -> None:
        self._end("failed", error=error)

    def _end(
        self,
        state: Literal["done", "stopped", "failed"],
        diff: LogitDiff | None = None,
        error: str | None = None,
    ) -> None:
        from ckptdiff.tui.text.logits import headline

        run = self.run
        if run is None:
            return
        run.end(state, diff, error)
        if not self.is_shown:
            self.notify(
                f"{headline(run)}   {key('tensors.logits', 'p')} shows it.",
                title="Logits",
                severity="error" if run.state == "failed" else "information",
                timeout=10,
                markup=False,
            )
        self.post_message(SessionChanged("prompt"))
