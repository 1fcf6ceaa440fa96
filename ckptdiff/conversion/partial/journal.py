"""The journal in `OUT.partial`: the plan, each file that is complete, and that all of them are."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.conversion.partial.entries import State, write_at
from ckptdiff.errors import BadArgument
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What a cast lost of the elements that are stored from an offset of a file on, which several files
# may hold: the name of the canonical tensor, that place, and the loss.
PlacedLoss = tuple[str, tuple[str, int], Loss]
MAX_BYTES = 64 << 20  # that are read; half a million tensors that were cast are less
MAX_LINE = 16 << 20  # bytes
_MAX_PLAN = 200  # bytes of the line
_WHOLE = b'"whole"\n'


@dataclass(frozen=True, slots=True)
class CompleteFile:
    """A file that was written to its end and synced."""

    path: str  # relative to the new folder
    state: State
    losses: tuple[PlacedLoss, ...] = ()


class PartialJournal:
    """Lines of bytes: the plan, then JSON of each complete file, then `"whole"`.

    A line counts if its end was written and all lines before it count. What follows the last of
    these is overwritten. While it is open for writing, it is locked.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.plan = ""  # a fingerprint
        self.files: dict[str, CompleteFile] = {}
        self.is_whole = False  # all files are complete and, unless told not to, verified
        self._fd: int | None = None
        self._end = 0  # of the last line that counts

    def read(self) -> None:
        """Read the lines that count; none of what is no regular file. Raises OSError."""
        fd = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self._read(fd)
        finally:
            os.close(fd)

    def open(self) -> None:
        """Make or open it, lock it, and read it.

        Raises BadArgument if another run has it or it is no file of its own, OSError.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open(self.file, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self._no_journal() from error
            raise
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self._no_journal()
        busy = BadArgument(f"{self.file.parent}: another conversion is writing here")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Other errors: some network file systems have no locks. The work is not refused there.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise busy from error
        if os.fstat(self._fd).st_nlink == 0:  # that run came to its end just now
            raise busy
        self._read(self._fd)
        os.ftruncate(self._fd, self._end)

    def close(self) -> None:
        """Unlock it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def begin(self, plan: str, files: Iterable[CompleteFile] = ()) -> None:
        """Empty it, and write the plan and files that are complete. Raises OSError."""
        assert self._fd is not None
        self.plan, self.files, self.is_whole, self._end = plan, {}, False, 0
        os.ftruncate(self._fd, 0)
        kept = {file.path: file for file in files}
        self._append(plan.encode() + b"\n" + b"".join(map(_line_of, kept.values())))
        self.files = kept

    def add(self, file: CompleteFile) -> None:
        """Record a file that is complete and synced. Raises OSError."""
        self._append(_line_of(file))
        self.files[file.path] = file

    def end(self) -> None:
        """Record that all files are complete. Raises OSError."""
        self._append(_WHOLE)
        self.is_whole = True

    def _append(self, line: bytes) -> None:
        assert self._fd is not None
        write_at(self._fd, line, self._end)
        os.fsync(self._fd)
        self._end += len(line)

    def _read(self, fd: int) -> None:
        with os.fdopen(os.dup(fd), "rb") as lines:
            plan = lines.readline(_MAX_PLAN)
            if not plan.endswith(b"\n") or not plan[:-1].isalnum():
                return
            self.plan, self._end = plan[:-1].decode(), len(plan)
            while not self.is_whole and self._end < MAX_BYTES:
                line = lines.readline(MAX_LINE)
                if not line.endswith(b"\n"):  # the end, or it was torn
                    return
                if line == _WHOLE:
                    self.is_whole = True
                elif (file := _file_of(line)) is not None:
                    self.files[file.path] = file
                else:
                    return
                self._end += len(line)

    def _no_journal(self) -> BadArgument:
        return BadArgument(
            f"{self.file}: is in the way, and no file that a conversion wrote; rename or remove it"
        )


def _line_of(file: CompleteFile) -> bytes:
    losses = [
        [name, *place, loss.rounded, loss.overflowed, loss.flushed]
        for name, place, loss in file.losses
    ]
    return json.dumps([file.path, *file.state, losses]).encode() + b"\n"


def _file_of(line: bytes) -> CompleteFile | None:
    """Return the file of a line; None for any line but those of `_line_of`."""
    try:
        path, nbytes, mtime, inode, losses = json.loads(line)
        if not isinstance(path, str) or {type(n) for n in (nbytes, mtime, inode)} != {int}:
            return None
        return CompleteFile(path, (nbytes, mtime, inode), tuple(_loss_of(*one) for one in losses))
    except (ValueError, TypeError, RecursionError):
        return None


def _loss_of(name: Any, file: Any, offset: Any, *counts: Any) -> PlacedLoss:
    """Return a loss; raises TypeError for anything but what `_line_of` writes."""
    if not isinstance(name, str) or not isinstance(file, str) or type(offset) is not int:
        raise TypeError
    if any(type(count) is not int for count in counts):
        raise TypeError
    return name, (file, offset), Loss(*counts)
