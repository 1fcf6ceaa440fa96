"""Open and read files safely: regular files only, system errors as ckptdiff's own."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ckptdiff.errors import MissingShard, UnreadableFile
from ckptdiff.formats.stamps import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Progress = Callable[[int, int], None]  # (files read, files in all)

T = TypeVar("T")
FILES_IN_TURN = 4  # read one after another, to measure how long a read waits
_SLOW = 2  # ratio of waiting to work; another busy thread makes a read wait as long as it works
MAX_NAME = 255  # bytes of a file's name
LINK_LOOP = "is a link that leads to itself: put the file itself in its place"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def open_regular(file: Path) -> Iterator[int]:
    """Open a regular file for reading and yield its descriptor.

    Raises MissingShard if there is no such file, UnreadableFile if it is not a regular file or the
    system refuses. A pipe is refused without waiting for its other end.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingShard(f"{file}: {no_file(file)}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnreadableFile(f"{file}: {LINK_LOOP}") from error
        raise UnreadableFile(f"{file}: cannot be opened ({error.strerror})") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            what = _what(file, status.st_mode)
            raise UnreadableFile(f"{file}: is not a regular file but {what}: put one in its place")
        note(file, status)
        yield fd
    except OSError as error:
        raise UnreadableFile(f"{file}: cannot be read ({error.strerror})") from error
    finally:
        os.close(fd)


def no_file(file: Path) -> str:
    """Return in words why there is no file: none, or a link to nothing, and what to do."""
    if not file.is_symlink():
        return "there is no such file"
    try:
        file.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return LINK_LOOP
    return (
        f"is a link to {os.readlink(file)}, which is not there: put what it leads to in its place"  # noqa: PTH115 -- as it is written
    )


def _what(file: Path, mode: int) -> str:
    """Return in words what is there that is no regular file, and where a link to it leads."""
    kind = next((what for is_one, what in _KINDS if is_one(mode)), "something else")
    return f"{kind}, {os.path.realpath(file)}" if file.is_symlink() else kind


def is_there(file: Path) -> bool:
    """Return whether a file is there: a link to nothing is, so that reading it says what it is."""
    return file.exists() or file.is_symlink()


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Return `size` bytes from `offset` on, or fewer at the end of the file.

    It repeats the system call, which may return less than it is asked for.
    """
    parts = []
    while size > 0 and (part := os.pread(fd, min(size, 1 << 30), offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def not_fetched(head: bytes) -> str | None:
    """Return what is wrong and what to do if a file that starts with `head` was never fetched."""
    if not head:
        return "is empty: the copy did not get that far, copy it again"
    if head.startswith(LFS_POINTER):
        return "is a pointer of Git LFS, not the file itself: run git lfs pull there"
    if not head.strip(b"\0"):
        return "begins with zeros: it was not written or copied whole, copy it again"
    return None


def is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder, and valid for the system."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    inside = os.path.basename(name) == name  # noqa: PTH119
    return inside and name not in ("", ".", "..") and b"\0" not in raw and len(raw) <= MAX_NAME


def read_small(file: Path, limit: int) -> bytes:
    """Return a whole file; raises UnreadableFile if it has more than `limit` bytes."""
    with open_regular(file) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise UnreadableFile(f"{file}: {size} bytes, more than the {limit} that can be right")
        return read_at(fd, 0, size)


def each_file(
    files: Sequence[Path], read: Callable[[Path], T], progress: Progress | None = None
) -> Iterator[tuple[Path, T]]:
    """Yield every file and the result of `read` for it, in the order given."""
    for done, (file, result) in enumerate(zip(files, _each(files, read), strict=True), 1):
        if progress is not None:
            progress(done, len(files))
        yield file, result


def _each(files: Sequence[Path], read: Callable[[Path], T]) -> Iterator[T]:
    """Read files one after another, or several at a time once waiting for them dominates.

    On a network disk each read waits, and several threads wait at the same time. On a disk that
    answers at once threads only take turns, which makes reading half as slow again.
    """
    waited = worked = 0.0
    for at, file in enumerate(files):
        if at >= FILES_IN_TURN and waited > _SLOW * worked:
            yield from _in_threads(files[at:], read)
            return
        start, start_of_work = time.perf_counter(), time.thread_time()
        result = read(file)
        work = time.thread_time() - start_of_work
        worked += work
        waited += time.perf_counter() - start - work
        yield result


def _in_threads(files: Sequence[Path], read: Callable[[Path], T]) -> Iterator[T]:
    # Imported late: most checkpoints need no threads and start sooner.
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(min(8, len(files)))
    try:
        yield from pool.map(read, files)
    finally:
        pool.shutdown(cancel_futures=True)
