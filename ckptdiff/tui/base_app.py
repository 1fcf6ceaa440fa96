"""The interface of the app that screens use. They import this, and the app imports them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from textual.app import App

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.settings import Settings
    from ckptdiff.tui.model.conversion import ConversionDraft, ConversionPlan, ConversionRun
    from ckptdiff.tui.model.prompt_run import PromptHistory
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.runners.settings import SettingsRunner
    from ckptdiff.tui.workers.engine import Engine


class BaseApp(App[None]):
    """Declares what `CkptDiffApp` implements."""

    engine: Engine
    prompts: PromptHistory
    settings_runner: SettingsRunner
    ascii_only: bool
    clock: Callable[[], float]  # monotonic, in seconds
    now: Callable[[], float]  # Unix time, in seconds

    # ── opening screens ──────────────────────────────────────────────────────────────────────

    @abstractmethod
    def open(self, paths: Sequence[Path], opened: Mapping[Path, Checkpoint] | None = None) -> None:
        """Show one checkpoint, or compare two. `opened` holds those that have been read already."""

    @abstractmethod
    def show_open_screen(self) -> None:
        """Show the screen that asks for checkpoints."""

    @abstractmethod
    def show_findings(self, session: Session, number: int) -> None:
        """Show the findings with the cursor on the one of this number.

        If one is chosen there, the tensor list shows what it covers.
        """

    @abstractmethod
    def show_convert(self, session: Session, fault: int | None = None) -> None:
        """Show the conversion that runs or whose end was not shown; without one, show the form.

        The form writes B without the fault of this number, if a conversion takes it out.
        """

    @abstractmethod
    def change_draft(self, session: Session, draft: ConversionDraft) -> None:
        """Replace the screen of an ended conversion by the form, filled in with its draft."""

    @abstractmethod
    def leave(self) -> None:
        """Quit; while a conversion runs, ask first."""

    # ── the conversion ───────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def conversion(self) -> ConversionRun | None:
        """The conversion that runs, or else the last one."""

    @property
    @abstractmethod
    def is_converting(self) -> bool: ...

    @abstractmethod
    def start_conversion(self, plan: ConversionPlan, against: Path | None = None) -> ConversionRun:
        """Start a planned conversion in the background, to be compared with `against` after it."""

    @abstractmethod
    def stop_conversion(self) -> None:
        """Stop the conversion and remove what it wrote."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Ask the user, then stop the conversion."""

    @abstractmethod
    def show_conversion(self) -> None:
        """Update every screen that shows the conversion's progress."""

    # ── clipboard, settings ──────────────────────────────────────────────────────────────────

    @abstractmethod
    def copy(self, text: str) -> None:
        """Send text to the clipboard of the terminal."""

    @abstractmethod
    def copy_selection(self) -> bool:
        """Send what is selected with the mouse to the clipboard. Return False if nothing is."""

    @property
    @abstractmethod
    def settings(self) -> Settings: ...

    @abstractmethod
    def change_settings(self, **changes: Any) -> None:
        """Change settings and save them."""
