"""What a file was when its header was read, so that it is noticed if it is written again."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptdiff.errors import MixedShards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint, Stamp

_noting: list[dict[str, Stamp]] = []
_lock = threading.Lock()


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what changes when a file is replaced or written."""
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def is_another(before: Stamp, now: Stamp) -> bool:
    """Return whether a file was replaced or written between two stamps.

    One that is replaced by a copy of its size and age has another inode, and that another time of
    change. File systems over a network give a file that nobody touches another inode now and then.
    """
    return before[:2] != now[:2] or (before[2] != now[2] and before[3] != now[3])


@contextmanager
def noting_stamps() -> Iterator[dict[str, Stamp]]:
    """Yield a dictionary of the files that are opened meanwhile, in any thread, as they were."""
    seen: dict[str, Stamp] = {}
    with _lock:
        _noting.append(seen)
    try:
        yield seen
    finally:
        with _lock:
            _noting[:] = [other for other in _noting if other is not seen]


def note(file: Path, status: os.stat_result) -> None:
    """Note what a file was that is now open. Of a file that is opened again the first counts."""
    for seen in _noting:
        seen.setdefault(str(file), stamp_of(status))


def stamps_of(files: Iterable[Path], seen: Mapping[str, Stamp]) -> dict[str, Stamp]:
    """Return the stamp of each file that is there, as it was seen or else as it is now."""
    found = {}
    for name in map(str, files):
        try:
            found[name] = seen.get(name) or stamp_of(os.stat(name))  # noqa: PTH116 -- many files
        except OSError:
            continue
    return found


class Unchanged:
    """Looks whether files of checkpoints are still what they were when these were opened.

    To be asked after a file was read: what was read then is of the file whose header is known.
    """

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self._stamps = [checkpoint.stamps for checkpoint in checkpoints]

    def trouble(self, files: Iterable[str]) -> dict[str, str]:
        """Return, in words, what happened to the files that were written again or replaced."""
        return {file: _TROUBLE.format(file=file) for file in files if self._has_changed(file)}

    def check(self) -> None:
        """Raise MixedShards if any file was written again or replaced."""
        for trouble in self.trouble(file for known in self._stamps for file in known).values():
            raise MixedShards(trouble)

    def _has_changed(self, file: str) -> bool:
        stamps = [known[file] for known in self._stamps if file in known]
        if not stamps:
            return False
        try:
            now = stamp_of(os.stat(file))  # noqa: PTH116 -- asked for each file of each job
        except OSError:  # gone: what was read of it is what it held, or an error of its own
            return False
        return any(is_another(stamp, now) for stamp in stamps)


_TROUBLE = (
    "{file}: was written again or replaced since its header was read; wait until nothing writes to "
    "the checkpoint, and try again"
)
