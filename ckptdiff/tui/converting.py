"""The app's part of converting: one conversion may run, whatever screens come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work
from textual.app import App
from textual.worker import Worker, get_current_worker

from ckptdiff.tui.model.conversion import ConversionRun
from ckptdiff.tui.text.words import short_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.timer import Timer

    from ckptdiff.tui.messages import ConversionAdvanced, ConversionEnded
    from ckptdiff.tui.model.conversion import ConversionPlan
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.workers.engine import Engine

REPAINT_SECONDS = 0.25


class ConvertingApp(App[None]):
    """Owns the conversion and its worker; screens that show it are told by `conversion_changed`."""

    engine: Engine
    clock: Callable[[], float]

    def __init__(self, *, ansi_color: bool | None) -> None:
        super().__init__(ansi_color=ansi_color)
        self.conversion: ConversionRun | None = None  # the one that runs, or the last one
        self._converter: Worker[None] | None = None
        self._repaint: Timer | None = None
        self._leaving = False

    @property
    def is_converting(self) -> bool:
        return self.conversion is not None and self.conversion.is_busy

    def show_convert(self, session: Session) -> None:
        """Show the conversion that runs or ended unseen; else ask for what is to be converted."""
        from ckptdiff.tui.screens.conversion import ConversionScreen
        from ckptdiff.tui.screens.convert import ConvertScreen

        if self.conversion is not None and (self.is_converting or self.conversion.is_news):
            self.push_screen(ConversionScreen(self.conversion, session))
        else:
            self.push_screen(ConvertScreen(session))

    def start_conversion(self, plan: ConversionPlan) -> ConversionRun:
        """Convert as planned, in the background."""
        assert not self.is_converting
        number = 1 if self.conversion is None else self.conversion.number + 1
        self.conversion = ConversionRun(number, plan, self.clock)
        self._converter = self._convert(self.conversion)
        self.show_conversion()
        return self.conversion

    def stop_conversion(self) -> None:
        """Stop what runs; it removes what it has written, which may take a moment."""
        if self.conversion is not None and self.conversion.is_busy and self._converter is not None:
            self.conversion.stage = "stopping"
            self._converter.cancel()
            self.show_conversion()

    def ask_to_stop(self) -> None:
        """Stop the conversion if the user says so."""
        from ckptdiff.tui.screens.ask import AskScreen

        def answered(yes: bool | None) -> None:  # noqa: FBT001
            if yes:
                self.stop_conversion()

        if self.conversion is not None and self.conversion.stage in ("writing", "verifying"):
            words = f"What is written to {short_path(self.conversion.plan.out)} is removed."
            screen = AskScreen("Stop converting?", words, yes="stops and removes", no="goes on")
            self.push_screen(screen, answered)

    def leave(self) -> None:
        """End the program; a conversion that runs is asked about first."""
        if self.is_converting:
            self._ask_before_leaving()
        else:
            self.exit(return_code=self.exit_code())

    def exit_code(self) -> int:
        return 0

    def _ask_before_leaving(self) -> None:
        """Leave once the conversion has stopped and removed what it wrote, if the user says so."""
        from ckptdiff.tui.screens.ask import AskScreen

        def answered(yes: bool | None) -> None:  # noqa: FBT001
            if not yes:
                return
            self._leaving = True
            if self.is_converting:
                self.stop_conversion()
            else:
                self.leave()

        if self.conversion is not None and not self._leaving:
            out = short_path(self.conversion.plan.out)
            words = f"{out} is being written. Quitting stops that and removes it."
            screen = AskScreen("Quit?", words, yes="stops and quits", no="goes on")
            self.push_screen(screen, answered)

    @work(thread=True, exit_on_error=False, group="convert", description="converting")
    def _convert(self, run: ConversionRun) -> None:
        from ckptdiff.tui.workers import convert as conversion_jobs

        worker = get_current_worker()
        conversion_jobs.run_conversion(
            run.number,
            self.engine,
            run.conversion,
            post=self.post_message,
            is_cancelled=lambda: worker.is_cancelled,
        )

    def on_conversion_advanced(self, message: ConversionAdvanced) -> None:
        run = self.conversion
        if run is not None and message.run == run.number and run.is_busy:
            run.advance(message.stage, message.name, message.done, message.kept)
            if self._repaint is None:
                self._repaint = self.set_timer(REPAINT_SECONDS, self.show_conversion)

    def on_conversion_ended(self, message: ConversionEnded) -> None:
        from ckptdiff.tui.screens.conversion import ConversionScreen

        run = self.conversion
        if run is None or message.run != run.number:
            return
        run.end(message.stage, message.lines, message.error)
        if self._leaving:
            self.leave()
            return
        looking = any(isinstance(screen, ConversionScreen) for screen in self.screen_stack)
        if not looking and run.stage != "stopped":
            run.is_news = True
            self.notify(
                run.headline,
                title="Convert",
                severity="error" if run.stage == "failed" else "information",
                timeout=10,
                markup=False,
            )
        self.show_conversion()

    def show_conversion(self) -> None:
        """Tell every screen; while it runs, at most 4 times a second."""
        if self._repaint is not None:
            self._repaint.stop()
            self._repaint = None
        for screen in self.screen_stack:
            changed = getattr(screen, "conversion_changed", None)
            if changed is not None:
                changed()
