"""The runner that saves settings in threads, since the home folder may be on a slow mount."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textual import work

from ckptdiff.formats.hub.lookup import absolute
from ckptdiff.settings import RecentPair, Settings, load_settings, save_settings
from ckptdiff.tui.runners.base import Runner

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.model.session import Session


class SettingsRunner(Runner):
    """Holds the settings and runs the workers that save them."""

    def __init__(self, file: Path | None) -> None:
        """Load the settings. Without a file they are those of this run."""
        super().__init__()
        self.settings, self.trouble = (Settings(), None) if file is None else load_settings(file)
        self.file = file
        self._said = ""  # the last trouble: it is told once, not at each change
        self._saving = threading.Lock()

    def change(self, **changes: Any) -> None:
        """Change settings and save them."""
        self.settings = replace(self.settings, **changes)
        self.worker = self._save()

    def remember(self, session: Session) -> None:
        """Save a pair and its verdict among the recent ones."""
        if session.summary is None or session.browsing:
            return
        a, b = (str(absolute(path)) for path in session.paths)
        pair = RecentPair(a, b, session.summary.verdict, session.differences, session.now())
        self.settings = self.settings.with_pair(pair)
        self.worker = self._save()

    def show_file(self) -> None:
        """Show the path of the settings file."""
        text = "There is no home folder to keep settings in." if self.file is None else self.file
        self.notify(str(text), title="Settings", timeout=15, markup=False)

    @work(thread=True, exit_on_error=False, group="settings")
    def _save(self) -> None:
        if self.file is None:
            return
        try:
            with self._saving:  # saves do not overlap, and each saves the latest settings
                found, trouble = load_settings(self.file)  # its keys may just have been edited
                if trouble is None:  # else a slip of the pen would cost all that is in the file
                    save_settings(replace(self.settings, keys=found.keys), self.file)
        except OSError as error:
            self.app.call_from_thread(
                self.worker_failed, f"{self.file}: {error.strerror}. Settings are not kept."
            )
        else:
            if trouble is not None:
                self.app.call_from_thread(self.worker_failed, f"{trouble} Settings are not kept.")

    def worker_failed(self, error: str) -> None:
        if error == self._said:
            return
        self._said = error
        self.notify(error, severity="warning", markup=False)
