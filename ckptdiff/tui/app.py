"""The app object: it holds settings and screens together and does nothing itself."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.binding import Binding, BindingType

from ckptdiff.settings import RecentPair, load_settings, save_settings
from ckptdiff.tui.converting import ConvertingApp
from ckptdiff.tui.model.prompt_run import PromptHistory
from ckptdiff.tui.model.session import SORTS, Session
from ckptdiff.tui.theme import CKPTDIFF, CKPTDIFF_16

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from textual.actions import ActionParseResult
    from textual.command import Provider
    from textual.dom import DOMNode

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.tui.workers.engine import Engine

COPY_LIMIT = 50_000


def _commands() -> type[Provider]:
    """Import the palette's commands when it is opened."""
    from ckptdiff.tui.commands import Commands

    return Commands


class CkptDiffApp(ConvertingApp):
    """Wiring: which screen comes first, keys that work everywhere, what is remembered."""

    TITLE = "ckptdiff"
    CSS_PATH = "app.tcss"
    COMMANDS = {_commands}  # noqa: RUF012
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-tiny"),
        (60, "-narrow"),
        (100, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "colon,ctrl+p",
            "command_palette",
            "Commands",
            id="app.commands",
            tooltip="find a command or a tensor by name",
        ),
        Binding("Q,ctrl+q", "quit", "Quit", show=False, id="app.quit", tooltip="leave ckptdiff"),
        Binding(
            "ctrl+c",
            "interrupt",
            "Stop",
            show=False,
            id="app.interrupt",
            tooltip="stop what runs; with nothing running it says how to quit",
        ),
        Binding(
            "ctrl+z",
            "suspend_process",
            "Suspend",
            show=False,
            id="app.suspend",
            tooltip="go to the shell; fg comes back",
        ),
    ]

    def __init__(
        self,
        paths: Sequence[Path] = (),
        *,
        engine: Engine,
        settings_file: Path,
        history: Path | None = None,
        optimizer: bool = False,
        ascii_only: bool = False,
        no_color: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        # Textual's own way without colour draws black on black in themes of terminal colours.
        super().__init__(ansi_color=True if no_color else None)
        self.paths = tuple(paths)
        self.engine = engine
        self.history = history
        self.optimizer = optimizer
        self.ascii_only = ascii_only
        self.clock = clock
        self.now = now
        self.prompts = PromptHistory()
        self.settings, self._settings_trouble = load_settings(settings_file)
        self._settings_file = settings_file
        self._saving = threading.Lock()
        self._starting = True
        self.set_class(ascii_only, "-ascii")
        self.set_class(no_color, "-no-color")

    def on_mount(self) -> None:
        self.register_theme(CKPTDIFF)
        self.register_theme(CKPTDIFF_16)
        few_colours = self.no_color or self.console.color_system == "standard"
        self.theme = CKPTDIFF_16.name if few_colours else CKPTDIFF.name
        if self.settings.theme in self.available_themes:
            self.theme = self.settings.theme
        self._starting = False
        if self.paths:
            self.open(self.paths)
        else:
            self.show_open_screen()
        if self._settings_trouble:
            self.notify(self._settings_trouble, severity="warning", markup=False)

    def open(self, paths: Sequence[Path], opened: Mapping[Path, Checkpoint] | None = None) -> None:
        """Show one checkpoint or compare two; `opened` are those that were read already."""
        from ckptdiff.tui.screens.tensors import TensorsScreen

        session = Session(
            paths,
            make_executor=self.engine.executor,
            clock=self.clock,
            now=self.now,
            ascii_only=self.ascii_only,
        )
        session.optimizer = self.optimizer and not session.browsing
        if self.settings.sort in SORTS and not session.browsing:
            session.sort = self.settings.sort
        session.differences_only = self.settings.differences_only and not session.browsing
        self.push_screen(
            TensorsScreen(session, self.engine, opened=dict(opened or {}), history=self.history)
        )

    def show_open_screen(self) -> None:
        from ckptdiff.tui.screens.open import OpenScreen

        self.push_screen(OpenScreen())

    def show_guide(self, topic: str) -> None:
        """Show a page of the guide, or the part on a class of faults."""
        from ckptdiff.tui.screens.guide import GuideScreen

        self.push_screen(GuideScreen(topic))

    def get_key_display(self, binding: Binding) -> str:
        if binding.key in ("enter", "tab", "escape", "space"):
            return {"escape": "esc"}.get(binding.key, binding.key)  # words, not symbols
        if self.ascii_only and binding.key in ("up", "down", "left", "right"):
            return binding.key
        return binding.key_display or super().get_key_display(binding).replace("^", "ctrl+")

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action; where a key is greyed, say why."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        explain = getattr(default_namespace, "why_not", None)
        if explain is None or not isinstance(action, str):
            return False
        reason = explain(action.partition("(")[0])
        if reason is None:
            return False
        self.notify(reason, markup=False)
        return True

    async def action_quit(self) -> None:
        self.leave()

    def exit_code(self) -> int:
        """Return 2 if what the program was started for could not be opened."""
        from ckptdiff.tui.screens.comparing import ComparingScreen

        sessions = [s.session for s in self.screen_stack if isinstance(s, ComparingScreen)]
        return 2 if any(session.phase == "failed" for session in sessions) else 0

    def action_interrupt(self) -> None:
        """Ctrl+C stops the running job, as in a shell; without one it says how to leave."""
        from ckptdiff.tui.screens.logits import LogitsScreen
        from ckptdiff.tui.screens.prompting import PromptingScreen

        screens = [s for s in reversed(self.screen_stack) if isinstance(s, PromptingScreen)]
        asking = [screen for screen in screens if screen.is_asking]
        comparing = [screen for screen in screens if screen.session.is_busy]
        if asking and (isinstance(self.screen, LogitsScreen) or not comparing):
            asking[0].stop_prompt()
            return
        if comparing:
            comparing[0].stop()
            return
        if self.is_converting:
            self.ask_to_stop()
            return
        self.notify("Nothing is running. Press Q to quit.")

    def copy(self, text: str) -> None:
        """Send text to the clipboard of the terminal, which may be far away and may not listen."""
        if len(text.encode()) > COPY_LIMIT:
            self.notify("Too long for a terminal's clipboard.")
            return
        self.copy_to_clipboard(text)
        self.notify(
            f"Sent {len(text)} characters to the terminal clipboard. Nothing there? In tmux:"
            " set -s set-clipboard on.",
            markup=False,
        )

    def save_picture(self) -> None:
        """Save the screen as an SVG picture in the folder where ckptdiff was started."""
        try:
            path = self.save_screenshot()
        except OSError as error:
            self.notify(f"No picture: {error.strerror}.", severity="error", markup=False)
        else:
            self.notify(f"Saved {path}", markup=False)

    def show_settings_file(self) -> None:
        self.notify(str(self._settings_file), title="Settings", timeout=15, markup=False)

    # ── what is remembered ───────────────────────────────────────────────────────────────────

    def watch_theme(self, theme: str) -> None:
        if not self._starting:
            self.change_settings(theme=theme)

    def change_settings(self, **changes: Any) -> None:
        """Remember something; it is written in a thread, since home folders may be far away."""
        self.settings = replace(self.settings, **changes)
        self._save_settings()

    def remember(self, session: Session) -> None:
        """Remember a pair and how its comparison ended."""
        if session.summary is None or session.browsing:
            return
        a, b = (str(path.absolute()) for path in session.paths)
        pair = RecentPair(a, b, session.summary.verdict, session.differences, session.now())
        self.settings = self.settings.with_pair(pair)
        self._save_settings()

    @work(thread=True, exit_on_error=False, group="settings")
    def _save_settings(self) -> None:
        try:
            with self._saving:  # one after the other, each with what is to be remembered by then
                save_settings(self.settings, self._settings_file)
        except OSError as error:
            self.call_from_thread(
                self.notify,
                f"{self._settings_file}: {error.strerror}. Settings are not kept.",
                severity="warning",
                markup=False,
            )
