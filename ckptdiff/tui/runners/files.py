"""The runner that lists what each file of a side holds, for the view of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work

from ckptdiff.tui.messages import SessionChanged
from ckptdiff.tui.runners.base import Runner
from ckptdiff.tui.workers.files import list_files

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.messages import FilesListed
    from ckptdiff.tui.model.session import Session


class FilesRunner(Runner):
    """Runs the worker that lists the files: for 90,000 tensors, the work of a second."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.sought: str | None = None  # where the cursor goes once the files are listed
        self._side: Assembled | None = None  # whose files are being listed

    def list(self) -> None:
        """List the files if they are in view, unless they are listed or being listed."""
        side, listed = self.session.files.side, self.session.files.is_listed
        if self.session.view != "files" or listed or side is None or side is self._side:
            return
        self.give_up()
        self._side = side
        self.worker = self._list(self.number, side)

    @work(thread=True, exclusive=True, exit_on_error=False, group="files", description="listing")
    def _list(self, run: int, side: Assembled) -> None:
        list_files(run, side, self.session.files.count, self.post_message)

    def on_files_listed(self, message: FilesListed) -> None:
        if message.run == self.number:
            self.give_up()
            self._side = None
            self.session.show_files(message.held, message.tallies)
            if self.session.view == "files":
                self.post_message(SessionChanged("files"))

    def worker_failed(self, error: str) -> None:
        self.notify(error, severity="error", markup=False)
        self._side = None
        self.session.show_view("names")
        self.post_message(SessionChanged("files"))
