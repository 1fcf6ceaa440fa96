"""Files as arrays: mapped once per process, bounds checked, compared bit by bit, unmapped again."""

from __future__ import annotations

import ctypes
import errno
import io
import mmap
import os
import resource
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import UNMAPPABLE, CorruptFile, UnreadableFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptdiff.kernels.views import Source, View

MAX_MAPPED = 48  # files mapped at once; a checkpoint can have a thousand
# Of the files that a process may have open, one in so many is mapped: each mapping holds one, and
# pipes, files that are written and modules that are still to be imported need some as well.
MAPPED_SHARE = 4
GATHERED = 1 << 20  # bytes of rows with gaps between, copied together for one memcmp
HUGE_PAGE = 2 << 20  # bytes; with one page the system maps up to this many around it
MAX_RESIDENT = 8 << 20  # bytes that stay mapped after they were read
GAP = 1 << 16  # bytes between two ranges that are unmapped as one

# The numpy dtype of stored elements. Those that numpy has no type for are their bits, unsigned.
RAW = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "<u1", "U8": "<u1", "I8": "<i1", "F8_E4M3": "<u1", "F8_E5M2": "<u1",
        "F8_E8M0": "<u1", "U16": "<u2", "I16": "<i2", "F16": "<u2", "BF16": "<u2",
        "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
        "F8_E4M3FNUZ": "<u1", "F8_E5M2FNUZ": "<u1", "C64": "<u8",
    }.items()
}  # fmt: skip

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcmp.restype = ctypes.c_int


@dataclass(frozen=True, slots=True)
class _Mapping:
    pages: mmap.mmap | None  # None: its file system cannot map it, so each view is read
    size: int  # bytes
    identity: tuple[int, ...]  # device, inode, size and time of the last write (ns)


_mapped: OrderedDict[str, _Mapping] = OrderedDict()
_lock = threading.Lock()
_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # fewer mappings may help


def _map(file: str) -> _Mapping:
    """Return the file, mapped if it can be. Raises UnreadableFile; CorruptFile if it is empty."""
    try:
        # A path may name another file than before, if a checkpoint was written again.
        identity = _identity(os.stat(file))  # noqa: PTH116 -- asked for every few megabytes
        with _lock:
            mapping = _mapped.get(file)
            if mapping is None or mapping.identity != identity:
                _mapped.pop(file, None)
                mapping = _open_mapping(file)
                while len(_mapped) >= most_mapped():
                    _forget_oldest()
                _mapped[file] = mapping
            _mapped.move_to_end(file)
            return mapping
    except OSError as error:
        raise UnreadableFile(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise CorruptFile(f"{file}: the file is empty, but its header is not") from error


def most_mapped() -> int:
    """Return the number of files that are mapped at once under the process's limits."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_MAPPED
    return max(1, min(MAX_MAPPED, soft // MAPPED_SHARE))


def _forget_oldest() -> None:
    # Not closed: arrays may still refer to it. The last of them unmaps it.
    _mapped.popitem(last=False)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _open_mapping(file: str) -> _Mapping:
    """Map a file. Where a limit of the process is in the way, others are unmapped for it.

    Raises OSError, or ValueError if the file is empty.
    """
    while True:
        try:
            with open_at(file) as f:
                status = os.fstat(f.fileno())
                return _Mapping(_pages(f.fileno()), status.st_size, _identity(status))
        except OSError as error:
            if error.errno not in _LIMITS or not _mapped:
                raise
            _forget_oldest()


def _pages(fd: int) -> mmap.mmap | None:
    """Return the pages of an open file; None if it can be read, but not mapped."""
    try:
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        # A mapping takes addresses (ulimit -v) and a descriptor of its own; reading takes neither.
        if error.errno in UNMAPPABLE or (error.errno in _LIMITS and not _mapped):
            return None
        raise


def open_at(file: str, offset: int = 0) -> io.FileIO:
    """Open a regular file for reading from an offset on, unbuffered. Raises OSError.

    Anything else that has its name meanwhile is refused: opening a pipe would wait for its writer.
    """
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", file)
        os.lseek(fd, offset, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return io.FileIO(fd, "r")


def _read(file: str, offset: int, length: int) -> NDArray[np.uint8]:
    """Return bytes of a file that cannot be mapped. Raises UnreadableFile or CorruptFile."""
    try:
        content = np.empty(length, np.uint8)
    except MemoryError as error:
        raise UnreadableFile(
            f"{file}: {length} bytes of it neither can be mapped nor fit into memory; free some, "
            "or raise its limit (ulimit -v)"
        ) from error
    try:
        with open_at(file, offset) as f:
            done = 0
            while done < length:
                count = f.readinto(content[done:].data)
                if not count:
                    raise CorruptFile(f"{file}: ended at byte {offset + done} while it was read")
                done += count
    except OSError as error:
        raise UnreadableFile(f"{file}: {error.strerror}") from error
    return content


def extent(view: View | Source) -> int:
    """Return the number of bytes from the first element of a view to the end of its last one.

    Where its codes are halves of bytes, it is their number.
    """
    if 0 in view.shape:
        return 0
    steps = sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
    return (steps + 1) * ITEMSIZE[view.dtype]


def _reach(view: View | Source) -> tuple[int, int]:
    """Return where the bytes of a view start and stop in its file."""
    start, stop = view.offset, view.offset + extent(view)
    if view.scaling is not None and view.scaling.in_halves:
        return start // 2, -(-stop // 2)
    return start, stop


def matrix(view: View | Source) -> NDArray[Any]:
    """Return a view as a read-only array: over the mapped file, or with what is added to it.

    It has the view's shape and the dtype `RAW[view.dtype]`. Where the file system cannot map files,
    the view is read into memory, and so is the sum with an adapter: callers take views of some
    megabytes. Raises UnreadableFile, or CorruptFile if the file ends before the view does.
    """
    if view.added is None:
        return stored_matrix(view)
    from ckptdiff.kernels.merging import merged

    return merged(view, view.added)


def stored_matrix(view: View | Source) -> NDArray[Any]:
    """Return what a file holds of a view, without what is added to it. Raises as `matrix` does."""
    if view.scaling is not None and view.scaling.in_halves:
        from ckptdiff.kernels.halves import unpacked

        return unpacked(view)
    dtype = RAW[view.dtype]
    length = extent(view)
    if not length:
        return np.empty(view.shape, dtype)
    mapping = _map(view.file)
    needed = view.offset + length
    if needed > mapping.size:
        raise CorruptFile(
            f"{view.file}: a tensor of its header ends at byte {needed}, "
            f"but the file has {mapping.size} bytes; was it copied whole?"
        )
    strides = tuple(step * dtype.itemsize for step in view.stride)
    if mapping.pages is None:
        return np.ndarray(view.shape, dtype, _read(view.file, view.offset, length), 0, strides)
    return np.ndarray(view.shape, dtype, mapping.pages, view.offset, strides)


def _advise(file: str, start: int, stop: int, advice: int) -> None:
    """Call madvise for the bytes `start:stop` of a file, widened to `HUGE_PAGE`."""
    mapping = _mapped.get(file)
    if mapping is None or mapping.pages is None:
        return
    # The pages around were mapped with these, so they are unmapped with them. Mapping one again
    # costs little; if they stayed, they would in the end be the whole file.
    first = start // HUGE_PAGE * HUGE_PAGE
    last = min(-(-stop // HUGE_PAGE) * HUGE_PAGE, len(mapping.pages))
    if first < last:
        mapping.pages.madvise(advice, first, last - first)


def release(view: View) -> None:
    """Unmap the pages of a view that has been read; the page cache keeps them."""
    _advise(view.file, *_reach(view), mmap.MADV_DONTNEED)


class PageReleaser:
    """Unmaps the pages of views that have been read, once there are many and at the end.

    Not view by view: neighbours share pages.
    """

    def __init__(self) -> None:
        self._ranges: dict[str, tuple[int, int]] = {}  # by file: bytes, start and stop

    def __enter__(self) -> PageReleaser:
        return self

    def __exit__(self, *_: object) -> None:
        for file in list(self._ranges):
            self._release(file)

    def done(self, *views: View | Source) -> None:
        """Note that all of these views has been read."""
        for view in views:
            start, stop = _reach(view)
            known = self._ranges.get(view.file)
            if known is not None:
                if start > known[1] + GAP or stop < known[0] - GAP:
                    self._release(view.file)
                else:
                    start, stop = min(start, known[0]), max(stop, known[1])
            self._ranges[view.file] = (start, stop)
        if sum(stop - start for start, stop in self._ranges.values()) > MAX_RESIDENT:
            self.__exit__()

    def _release(self, file: str) -> None:
        _advise(file, *self._ranges.pop(file), mmap.MADV_DONTNEED)


def address(array: NDArray[Any]) -> int:
    """Return the memory address of the first element."""
    pointer: int = array.__array_interface__["data"][0]
    return pointer


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two matrices, (rows, columns), of one shape and item size are bit-equal.

    The elements of a row must be adjacent; there may be gaps between rows.
    """
    rows, cols = a.shape
    width = cols * a.itemsize
    p, q = address(a), address(b)
    if rows == 1 or a.strides[0] == b.strides[0] == width:
        return not _memcmp(p, q, rows * width)
    if _memcmp(p, q, width):
        return False
    # Rows are copied together: numpy copies a thousand in the time of a few calls of memcmp.
    down = max(1, GATHERED // max(1, width))
    return not any(
        _memcmp(_adjacent(a[row : row + down], 0), _adjacent(b[row : row + down], 1), size * width)
        for row in range(0, rows, down)
        for size in [min(down, rows - row)]
    )


class _Gathered(threading.local):
    """Buffers for the rows of both sides, allocated once per thread."""

    def __init__(self) -> None:
        self.sides = np.empty((2, GATHERED), np.uint8)


_gathered = _Gathered()


def _adjacent(rows: NDArray[Any], side: int) -> int:
    """Return the address of the rows without gaps between them, copied if there are gaps."""
    if rows.strides[0] == rows.shape[1] * rows.itemsize or rows.nbytes > GATHERED:
        return address(rows)
    copy = _gathered.sides[side, : rows.nbytes].view(rows.dtype).reshape(rows.shape)
    np.copyto(copy, rows)
    return address(copy)
