"""Keeps what is remembered, in a file that may lie in a home folder far away."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textual import work

from ckptdiff.settings import RecentPair, load_settings, save_settings
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.model.session import Session


class SettingsRunner(Runner):
    """Owns the settings, and the workers that write them down."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.settings, self.trouble = load_settings(file)
        self.file = file
        self._saving = threading.Lock()

    def change(self, **changes: Any) -> None:
        """Remember something for the next time."""
        self.settings = replace(self.settings, **changes)
        self.worker = self._save()

    def remember(self, session: Session) -> None:
        """Remember a pair and how its comparison ended."""
        if session.summary is None or session.browsing:
            return
        a, b = (str(path.absolute()) for path in session.paths)
        pair = RecentPair(a, b, session.summary.verdict, session.differences, session.now())
        self.settings = self.settings.with_pair(pair)
        self.worker = self._save()

    @work(thread=True, exit_on_error=False, group="settings")
    def _save(self) -> None:
        try:
            with self._saving:  # one after the other, each with what is to be remembered by then
                save_settings(self.settings, self.file)
        except OSError as error:
            self.app.call_from_thread(
                self.broke, f"{self.file}: {error.strerror}. Settings are not kept."
            )

    def broke(self, words: str) -> None:
        self.notify(words, severity="warning", markup=False)
