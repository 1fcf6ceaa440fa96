"""Reads single tensors in the background: their distribution and first values."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import work
from textual.message import Message
from textual.widget import Widget

from ckptdiff.comparison.inspect import Glance, glance
from ckptdiff.dtypes import has_numbers
from ckptdiff.errors import CkptDiffError
from ckptdiff.text import format_bytes, printable
from ckptdiff.tui.workers.cancellable import Cancellable, Stopped

if TYPE_CHECKING:
    from textual.timer import Timer

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.tui.model.session import Session

SMALL = 16_000_000  # bytes; tensors below are read without being asked for
REST_SECONDS = 0.15  # that the cursor stays on one


def why_unread(session: Session, name: str) -> str | None:
    """Return why the values of a tensor cannot be read; None if they can."""
    assembly = session.only_assembly(name)
    if assembly is not None and not has_numbers(assembly.dtype):
        return f"The numbers of {assembly.dtype} are not computed."
    if assembly is not None:
        return None
    packed = next((s.packed[name] for s in (session.a, session.b) if s and name in s.packed), None)
    if packed is not None:
        return f"It is packed as {printable(packed.text)}, which is not decoded: no values."
    return "No file is known to hold this tensor."


def is_large(session: Session, name: str) -> bool:
    """Return whether a tensor of one side is read only after a key, and has not been read yet."""
    assembly = session.only_assembly(name)
    return (
        assembly is not None
        and assembly.nbytes >= SMALL
        and name not in session.glances
        and why_unread(session, name) is None
    )


class TensorReader(Widget):
    """Fills `session.glances`. It shows nothing itself."""

    DEFAULT_CSS = "TensorReader { display: none; }"

    @dataclass
    class Changed(Message):
        """What is known of a tensor's values has changed."""

        name: str

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.reading: str | None = None  # the name of a tensor
        self._jobs: Cancellable | None = None
        self._rest: Timer | None = None

    def words(self, name: str) -> str:
        """Return why no values of a tensor are shown: they are being read, or a key reads them."""
        found = self.session.glances.get(name)
        if isinstance(found, str):
            return found
        why = why_unread(self.session, name)
        assembly = self.session.only_assembly(name)
        if why is not None or assembly is None:
            return why or ""
        size = format_bytes(assembly.nbytes)
        if self.reading != name and is_large(self.session, name):
            return f"i reads all {size} for statistics, histogram and first values."
        return f"Reading {size}"

    def look(self, name: str | None) -> None:
        """Read a small tensor once the cursor rests on it. What is read of others is stopped."""
        if name is not None and name == self.reading:
            return
        self.stop()
        if name is None or name in self.session.glances or is_large(self.session, name):
            return
        if why_unread(self.session, name) is None:
            self._rest = self.set_timer(REST_SECONDS, lambda: self.read(name))

    def read(self, name: str) -> None:
        """Read a tensor of any size."""
        assembly = self.session.only_assembly(name)
        if assembly is None or name in (self.reading, *self.session.glances):
            return
        self.stop()
        self.reading = name
        self._jobs = Cancellable(lambda: self.session.executor)
        self._read(assembly, self._jobs)
        self.post_message(self.Changed(name))

    def stop(self) -> None:
        """Stop reading."""
        if self._rest is not None:
            self._rest.stop()
        if self._jobs is not None:
            self._jobs.cancel()
        self.reading = self._jobs = self._rest = None

    def on_unmount(self) -> None:
        self.stop()

    @work(thread=True, exit_on_error=False, group="glance")
    def _read(self, assembly: Assembly, jobs: Cancellable) -> None:
        found: Glance | str
        try:
            found = glance(assembly, jobs).result()
        except (CancelledError, Stopped):
            return
        except (CkptDiffError, OSError) as error:
            found = printable(str(error))
        self.app.call_from_thread(self._keep, assembly, jobs, found)

    def _keep(self, assembly: Assembly, jobs: Cancellable, found: Glance | str) -> None:
        if self._jobs is jobs and self.session.only_assembly(assembly.name) is assembly:
            self.session.glances[assembly.name] = found
            self.reading = self._jobs = None
            self.post_message(self.Changed(assembly.name))
