"""What screens ask of the app: it is there for their types, so that they need not know the app."""

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
    from ckptdiff.tui.workers.engine import Engine


class BaseApp(App[None]):
    """One app for all screens; each of these is done in `app.py`."""

    engine: Engine
    prompts: PromptHistory
    ascii_only: bool
    clock: Callable[[], float]  # seconds, from some start
    now: Callable[[], float]  # seconds, as the calendar counts them

    # ── screens that any screen may ask for ──────────────────────────────────────────────────

    @abstractmethod
    def open(self, paths: Sequence[Path], opened: Mapping[Path, Checkpoint] | None = None) -> None:
        """Show one checkpoint or compare two; `opened` are those that were read already."""

    @abstractmethod
    def show_open_screen(self) -> None:
        """Ask for other checkpoints."""

    @abstractmethod
    def show_convert(self, session: Session) -> None:
        """Show the conversion that runs or ended unseen; else ask for what is to be converted."""

    @abstractmethod
    def change_draft(self, session: Session, draft: ConversionDraft) -> None:
        """Go back from a conversion that has ended to the form it came from."""

    @abstractmethod
    def leave(self) -> None:
        """End the program; a conversion that runs is asked about first."""

    # ── the conversion ───────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def conversion(self) -> ConversionRun | None:
        """The conversion that runs, or the last one."""

    @property
    @abstractmethod
    def is_converting(self) -> bool: ...

    @abstractmethod
    def start_conversion(self, plan: ConversionPlan) -> ConversionRun:
        """Convert as planned, in the background."""

    @abstractmethod
    def stop_conversion(self) -> None:
        """Stop what runs and remove what was written."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Stop the conversion if the user says so."""

    @abstractmethod
    def show_conversion(self) -> None:
        """Have every screen show how far the conversion is."""

    # ── what is copied and remembered ────────────────────────────────────────────────────────

    @abstractmethod
    def copy(self, text: str) -> None:
        """Send text to the clipboard of the terminal."""

    @abstractmethod
    def save_picture(self) -> None:
        """Save the screen as an SVG picture."""

    @abstractmethod
    def show_settings_file(self) -> None:
        """Say where settings are kept."""

    @property
    @abstractmethod
    def settings(self) -> Settings: ...

    @abstractmethod
    def change_settings(self, **changes: Any) -> None:
        """Remember something for the next time."""

    @abstractmethod
    def remember(self, session: Session) -> None:
        """Remember a pair and how its comparison ended."""
