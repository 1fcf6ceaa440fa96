"""Files and folders under `OUT.partial`: made, synced and deleted, and no link is ever followed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

State = tuple[int, int, int]  # of a file: bytes, mtime in ns, inode
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # of renameat2(2)
# What a file system answers that has no sync of folders, or does not let this user open them.
_UNSYNCED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EBADF})


def create(file: Path, pieces: Iterable[tuple[int, bytes]], nbytes: int | None = None) -> None:
    """Write (offset, content) pieces into a new file of `nbytes`, in folders that are made.

    Raises OSError, and so if there is such a file or link.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        for offset, content in pieces:
            write_at(fd, content, offset)
        if nbytes is not None:
            os.ftruncate(fd, nbytes)
    finally:
        os.close(fd)


def finish(file: str | Path, patches: Iterable[tuple[int, bytes]] = ()) -> State:
    """Write (offset, content) patches into a file and sync it; return its state."""
    fd = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for offset, content in patches:
            write_at(fd, content, offset)
        os.fsync(fd)
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return state_in(status)


def state_in(status: os.stat_result) -> State:
    """Return the state of a file that was asked for its status."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def state_of(file: Path) -> State | None:
    """Return the state of a regular file; None if there is none, or a link."""
    try:
        status = file.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return state_in(status)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of `content`; the system call may take a part of it. Raises OSError."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(fd, rest, offset)
        offset, rest = offset + count, rest[count:]


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk, where the file system can. Raises OSError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


def sync_folders(root: Path) -> None:
    """Sync the entries of a folder and of all folders in it. Raises OSError."""
    for folder, _, _ in os.walk(root):
        sync_folder(root / folder)


def exchanged(a: Path, b: Path) -> bool:
    """Let two folders change their names in one step; return False where the system cannot."""
    with suppress(AttributeError):  # an old C library
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        paths = os.fsencode(a), os.fsencode(b)
        return not rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return False


def delete(entry: Path) -> None:
    """Delete a file, a link, or a folder with everything in it. Raises OSError."""
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink()
    else:
        shutil.rmtree(entry)


def prune(root: Path, keep: Mapping[str, State]) -> set[str]:
    """Delete all in a folder but the files of these relative paths that are in these states.

    Returns the paths that were kept. Raises OSError.
    """
    found = set()
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders):
            entry = root / folder / name
            path = str(entry.relative_to(root))
            if entry.is_dir() and not entry.is_symlink():
                if not any(entry.iterdir()):
                    entry.rmdir()
            elif path in keep and state_of(entry) == keep[path]:
                found.add(path)
            else:
                entry.unlink()
    return found
