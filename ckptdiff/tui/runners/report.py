"""Writes a report of a comparison that is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.messages import ReportWritten
from ckptdiff.tui.runners.base import Runner
from ckptdiff.tui.text.hints import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.model.session import Session


class ReportRunner(Runner):
    """Owns the worker that writes; it says in a toast where the report lies."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def write(self, path: Path) -> None:
        """Write what was compared, once that is everything."""
        self.worker = self._write(path)

    @work(thread=True, exit_on_error=False, group="report")
    def _write(self, path: Path) -> None:
        from ckptdiff.report.pages import write_report

        session = self.session
        if session.a is None or session.b is None or session.summary is None:
            return
        results = [session.results[name] for name in session.names]
        try:
            write_report(path, session.a, session.b, results, session.summary)
        except CkptDiffError as error:
            self.post_message(ReportWritten(path, error.with_hint(KEYS)))
        else:
            self.post_message(ReportWritten(path))

    def on_report_written(self, message: ReportWritten) -> None:
        if message.error is None:
            self.notify(f"Wrote {message.path}", markup=False)
        else:
            self._say(f"{message.error}. Press w and choose another path.")

    def broke(self, words: str) -> None:
        self._say(words)

    def _say(self, words: str) -> None:
        self.notify(words, severity="error", markup=False)
