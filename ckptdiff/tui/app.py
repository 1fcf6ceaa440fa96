"""The Textual app: it opens screens and owns the runners that outlive them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.drivers.linux_driver import LinuxDriver

from ckptdiff.text import printable_lines
from ckptdiff.tui.base_app import BaseApp
from ckptdiff.tui.driver import TerminalDriver
from ckptdiff.tui.keymap import key, shown, use
from ckptdiff.tui.model.conversion import mending_draft
from ckptdiff.tui.model.prompt_run import PromptHistory
from ckptdiff.tui.model.session import Session
from ckptdiff.tui.runners.conversion import ConversionRunner
from ckptdiff.tui.runners.settings import SettingsRunner
from ckptdiff.tui.theme import CKPTDIFF, CKPTDIFF_16, THEMES, with_ours
from ckptdiff.tui.words import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from textual.actions import ActionParseResult
    from textual.app import ComposeResult
    from textual.command import Provider
    from textual.dom import DOMNode
    from textual.driver import Driver

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.settings import Settings
    from ckptdiff.tui.messages import ConversionChanged
    from ckptdiff.tui.model.conversion import ConversionDraft, ConversionPlan, ConversionRun
    from ckptdiff.tui.screens.tensors import TensorsScreen
    from ckptdiff.tui.workers.engine import Engine

COPY_LIMIT = 50_000  # bytes; some terminals ignore longer ones


def _commands() -> type[Provider]:
    """Return the palette's commands, imported when the palette is opened."""
    from ckptdiff.tui.commands import Commands

    return Commands


class CkptDiffApp(BaseApp):
    """Opens the first screen, handles the keys of all screens, and saves settings."""

    TITLE = "ckptdiff"
    CSS_PATH = "app.tcss"
    COMMANDS = {_commands}  # noqa: RUF012
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-tiny"),
        (40, "-small"),
        (60, "-narrow"),
        (100, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (10, "-short"), (16, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "colon,ctrl+p", "command_palette", "Commands", id="app.commands",
            tooltip="find a command or a tensor by name",
        ),
        Binding("Q,ctrl+q", "quit", "Quit", show=False, id="app.quit", tooltip="leave ckptdiff"),
        Binding(
            "ctrl+c", "interrupt", "Stop", show=False, id="app.interrupt",
            tooltip="copy what is selected, or else stop what runs; idle, it says how to quit",
        ),
        Binding(
            "ctrl+z", "suspend_process", "Suspend", show=False, id="app.suspend",
            tooltip="go to the shell; fg comes back",
        ),
    ]  # fmt: skip

    def __init__(
        self,
        paths: Sequence[Path] = (),
        *,
        engine: Engine,
        settings_file: Path | None,
        history: Path | None = None,
        optimizer: bool = False,
        adapter: Path | None = None,
        ascii_only: bool = False,
        no_color: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        # Textual's own NO_COLOR filter draws black on black in themes of terminal colours.
        super().__init__(ansi_color=True if no_color else None)
        self.paths = tuple(paths)
        self.engine = engine
        self.history = history
        self.optimizer = optimizer
        self.adapter = adapter  # of the paths that the program was started with
        self.ascii_only = ascii_only
        self.clock = clock
        self.now = now
        self.prompts = PromptHistory()
        self._starting = True
        self._leaving = False
        self.conversion_runner = ConversionRunner(engine, clock)
        self.settings_runner = SettingsRunner(settings_file)
        use({})
        self._key_troubles = self._use_own_keys() if self.settings.keys else []
        self.set_class(ascii_only, "-ascii")
        self.set_class(no_color, "-no-color")

    def compose(self) -> ComposeResult:
        """Mount the runners that live as long as the app, on the screen below all others."""
        yield self.conversion_runner
        yield self.settings_runner

    def on_mount(self) -> None:
        for theme in THEMES:
            self.register_theme(theme)
        few_colours = self.no_color or self.console.color_system == "standard"
        self.theme = CKPTDIFF_16.name if few_colours else CKPTDIFF.name
        if self.settings.theme in self.available_themes:
            self.theme = self.settings.theme
        self._starting = False
        if self.paths:
            self.open(self.paths)
        else:
            self.show_open_screen()
        for trouble in (self.settings_runner.trouble, *self._key_troubles):
            if trouble:
                self.notify(trouble, severity="warning", timeout=15, markup=False)

    def _use_own_keys(self) -> list[str]:
        """Put the keys of the settings in the place of ours; return what is wrong with them."""
        from ckptdiff.tui.own_keys import usable

        keymap, troubles = usable(self.settings.keys)
        self.set_keymap(keymap)
        use(keymap)
        return troubles

    def get_driver_class(self) -> type[Driver]:
        """Return our driver, but for a browser or where Textual's environment names another."""
        chosen = super().get_driver_class()
        return TerminalDriver if chosen is LinuxDriver else chosen

    def open(self, paths: Sequence[Path], opened: Mapping[Path, Checkpoint] | None = None) -> None:
        """Show one checkpoint, or compare two. `opened` holds those that have been read already."""
        from ckptdiff.tui.screens.tensors import TensorsScreen

        session = Session(
            paths,
            make_executor=self.engine.executor,
            clock=self.clock,
            now=self.now,
            ascii_only=self.ascii_only,
        )
        session.optimizer = self.optimizer and not session.browsing
        session.adapter = self.adapter if session.paths == self.paths else None
        session.differences_only = self.settings.differences_only and not session.browsing
        self.push_screen(
            TensorsScreen(session, self.engine, opened=dict(opened or {}), history=self.history)
        )

    def show_findings(self, session: Session, number: int) -> None:
        from ckptdiff.tui.screens.findings import FindingsScreen

        main = next(main for main in self._main_screens() if main.session is session)
        self.push_screen(FindingsScreen(session, number), main.show_finding)

    def show_open_screen(self) -> None:
        from ckptdiff.tui.screens.open import OpenScreen

        self.push_screen(OpenScreen())

    def get_key_display(self, binding: Binding) -> str:
        return binding.key_display or shown(binding.key, arrows=not self.ascii_only)

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action. If it is disabled, show why it is."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        explain = getattr(default_namespace, "why_not", None)
        named = action.partition("(")[0] if isinstance(action, str) else ""
        if explain is None or not named or (reason := explain(named)) is None:
            return False
        self.notify(reason, markup=False)
        return True

    async def action_quit(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Quit, with status 2 if a comparison failed; while a conversion runs, ask first."""
        failed = any(screen.session.phase == "failed" for screen in self._main_screens())
        if self.is_converting:
            self._ask_before_leaving()
        else:
            self.exit(return_code=2 if failed else 0)

    def _main_screens(self) -> list[TensorsScreen]:
        """Return the screens that hold a session, the topmost first."""
        from ckptdiff.tui.screens.tensors import TensorsScreen

        return [s for s in reversed(self.screen_stack) if isinstance(s, TensorsScreen)]

    def action_command_palette(self) -> None:
        from ckptdiff.tui.screens.palette import Palette

        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_interrupt(self) -> None:
        """Copy a selection, or stop the topmost running job; without either, show how to quit."""
        if self.copy_selection():
            return
        from ckptdiff.tui.screens.running import first_to_stop

        if (running := first_to_stop(self._main_screens(), self.screen)) is not None:
            running.stop()
        elif self.is_converting:
            self.ask_to_stop()
        else:
            self.notify(f"Nothing is running. Press {key('app.quit', 'Q')} to quit.")

    # ── the conversion ───────────────────────────────────────────────────────────────────────

    @property
    def conversion(self) -> ConversionRun | None:
        return self.conversion_runner.run

    @property
    def is_converting(self) -> bool:
        return self.conversion_runner.is_busy

    def start_conversion(self, plan: ConversionPlan, against: Path | None = None) -> ConversionRun:
        return self.conversion_runner.convert(plan, against)

    def stop_conversion(self) -> None:
        self.conversion_runner.stop()

    def show_convert(self, session: Session, fault: int | None = None) -> None:
        from ckptdiff.tui.screens.conversion import ConversionScreen
        from ckptdiff.tui.screens.convert import ConvertScreen

        run = self.conversion
        if run is not None and (run.is_busy or run.ended_unseen):
            self.push_screen(ConversionScreen(run, session))
        else:
            self.push_screen(ConvertScreen(session, mending_draft(session, fault)))

    def change_draft(self, session: Session, draft: ConversionDraft) -> None:
        from ckptdiff.tui.screens.convert import ConvertScreen

        self.switch_screen(ConvertScreen(session, draft))

    def ask_to_stop(self) -> None:
        """Ask the user, then stop the conversion."""
        from ckptdiff.tui.screens.ask import AskScreen

        def answered(yes: bool | None) -> None:  # noqa: FBT001
            if yes:
                self.stop_conversion()

        run = self.conversion
        if run is not None and run.stage in ("writing", "verifying"):
            words = f"What is written to {short_path(run.plan.out)} is removed."
            screen = AskScreen("Stop converting?", words, yes="stops and removes", no="goes on")
            self.push_screen(screen, answered)

    def _ask_before_leaving(self) -> None:
        """Ask the user, then stop the conversion and quit once it has removed what it wrote."""
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

    def on_conversion_changed(self, message: ConversionChanged) -> None:
        if message.ended and self._leaving:
            self.leave()
        else:
            if message.ended:
                self._notify_of_end()
            self.show_conversion()

    def _notify_of_end(self) -> None:
        """Notify of a conversion's end if its screen is not open, and mark the end as not shown."""
        from ckptdiff.tui.screens.conversion import ConversionScreen

        run = self.conversion
        is_open = any(isinstance(screen, ConversionScreen) for screen in self.screen_stack)
        if run is not None and not is_open and run.stage != "stopped":
            run.ended_unseen = True
            self.notify(
                run.headline,
                title="Convert",
                severity="error" if run.stage == "failed" else "information",
                timeout=10,
                markup=False,
            )

    def show_conversion(self) -> None:
        """Update every screen that shows the conversion's progress."""
        from ckptdiff.tui.screens.base import BaseScreen

        for screen in self.screen_stack:
            if isinstance(screen, BaseScreen):
                screen.conversion_changed()

    # ── clipboard ────────────────────────────────────────────────────────────────────────────

    def copy(self, text: str) -> None:
        """Send text to the clipboard (OSC 52). Whether it arrives is not reported."""
        text = printable_lines(text)  # what it says may come from a file, and go into a terminal
        if len(text.encode()) > COPY_LIMIT:
            self.notify("Too long for a terminal's clipboard.")
            return
        self.copy_to_clipboard(text)
        place = "terminal clipboard. Nothing there? In tmux: set -s set-clipboard on."
        place = "browser's clipboard." if self.is_web else place  # its page shows it otherwise
        self.notify(f"Sent {len(text)} characters to the {place}", markup=False)

    def copy_selection(self) -> bool:
        """Send what is selected with the mouse to the clipboard. Return False if nothing is."""
        selected = self.screen.get_selected_text()
        if selected:
            self.copy(selected)
            self.screen.clear_selection()
        return bool(selected)

    # ── settings ─────────────────────────────────────────────────────────────────────────────

    @property
    def settings(self) -> Settings:
        return self.settings_runner.settings

    def get_css_variables(self) -> dict[str, str]:
        return with_ours(super().get_css_variables())

    def watch_theme(self, theme: str) -> None:
        if not self._starting:
            self.change_settings(theme=theme)

    def change_settings(self, **changes: Any) -> None:
        self.settings_runner.change(**changes)
