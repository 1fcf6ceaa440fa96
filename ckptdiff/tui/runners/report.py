"""The runner that writes the report of a complete comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.keymap import key
from ckptdiff.tui.messages import ReportWritten
from ckptdiff.tui.runners.base import Runner
from ckptdiff.tui.text.hints import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.model.session import Session


class ReportRunner(Runner):
    """Runs the worker that writes a report, and notifies where it was written."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def write(self, path: Path | None) -> None:
        """Write the report of the comparison; nothing without a path or if it is not complete."""
        if path is not None:
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
            self._notify_error(
                f"{message.error}. Press {key('tensors.report', 'w')} and choose another path."
            )

    def worker_failed(self, error: str) -> None:
        self._notify_error(error)

    def _notify_error(self, words: str) -> None:
        self.notify(words, severity="error", markup=False)
