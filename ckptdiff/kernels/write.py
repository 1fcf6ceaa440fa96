"""Write spans of files: gather their elements from where they are stored, cast, take a CRC-32."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.checkpoint import contiguous, row_major
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.casts import cast
from ckptdiff.kernels.memory import RAW, PageReleaser, matrix
from ckptdiff.kernels.scales import dequantised
from ckptdiff.kernels.views import View
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptdiff.checkpoint import Box
    from ckptdiff.kernels.views import Source, Span

BLOCK = 1 << 20  # bytes gathered at once


@dataclass(slots=True)
class WrittenSpan:
    """What is known of a span once it is written."""

    checksum: int  # CRC-32 of its bytes, 0 if none was taken
    losses: list[Loss]  # of the casts, one per source of the span


def write(file: str, spans: Sequence[Span], *, checksums: bool) -> list[WrittenSpan]:
    """Write spans into an existing file, no link, and return what was written of each.

    Raises OSError for the file, UnreadableFile or CorruptFile for a source.
    """
    fd = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with PageReleaser() as pages:
            return [_write(fd, span, pages, checksums) for span in spans]
    finally:
        os.close(fd)


def _write(fd: int, span: Span, pages: PageReleaser, checksums: bool) -> WrittenSpan:  # noqa: FBT001
    written, at = WrittenSpan(0, [Loss()] * len(span.sources)), span.offset
    for box in row_major(span.shape, max(1, BLOCK // ITEMSIZE[span.dtype])):
        content, parts = gather(span, box, written)
        if checksums:
            written.checksum = zlib.crc32(content, written.checksum)
        while content:
            count = os.pwrite(fd, content, at)
            at += count
            content = content[count:]
        pages.done(*parts)
    return written


def gather(span: Span, box: Box, written: WrittenSpan) -> tuple[memoryview, list[Source]]:
    """Return the bytes of a box of a span, row-major, and the parts of sources that were read.

    Losses of casts are added to `written`. A box that is consecutive in one file is not copied: its
    bytes are those of the mapped file. Raises CorruptFile and UnreadableFile.
    """
    found = [
        (number, part)
        for number, source in enumerate(span.sources)
        for part in _inside(source, box)
    ]
    parts = [part for _, part in found]
    if len(found) == 1:
        (part,) = parts
        if part.dtype == span.dtype and part.scaling is None and _is_contiguous(part):
            return _bytes_of(matrix(part)), parts
    block = np.empty(tuple(stop - start for start, stop in box), RAW[span.dtype])
    for number, part in found:
        at = zip(part.box, box, strict=True)
        target = block[tuple(slice(p[0] - b[0], p[1] - b[0]) for p, b in at)]
        stored = matrix(part)
        dtype = part.dtype
        if part.scaling is not None:
            stored, dtype = _dequantised(stored, part), "F32"
        if dtype == span.dtype:
            np.copyto(target, stored)
        else:
            target[...], loss = cast(stored, dtype, span.dtype)
            written.losses[number] = written.losses[number].plus(loss)
    return _bytes_of(block), parts


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _inside(source: Source, box: Box) -> Iterator[Source]:
    """Yield the part of a source that lies in a box of the span, if there is one."""
    inner = tuple((max(s[0], b[0]), min(s[1], b[1])) for s, b in zip(source.box, box, strict=True))
    if any(start >= stop for start, stop in inner):
        return
    skipped = [i[0] - s[0] for i, s in zip(inner, source.box, strict=True)]
    offset = sum(n * step for n, step in zip(skipped, source.stride, strict=True))
    scaling = source.scaling
    if scaling is not None:
        (row, column), (down, across) = scaling.at, source.matrix_dims
        scaling = replace(scaling, at=(row + skipped[down], column + skipped[across]))
    yield replace(
        source,
        offset=source.offset + offset * ITEMSIZE[source.dtype],
        shape=tuple(stop - start for start, stop in inner),
        box=inner,
        scaling=scaling,
    )


def _is_contiguous(part: Source) -> bool:
    """Return whether the elements are consecutive in the file, row-major."""
    dense = contiguous(part.shape)
    return all(n == 1 or s == d for n, s, d in zip(part.shape, part.stride, dense, strict=True))


def _dequantised(codes: NDArray[Any], part: Source) -> NDArray[Any]:
    """Return the numbers of a quantised source, float32, in the shape of the codes."""
    rows, columns = (part.shape[dim] for dim in part.matrix_dims)
    view = View(part.file, part.offset, (rows, columns), (0, 0), part.dtype, part.scaling)
    return dequantised(codes.reshape(rows, columns), view, (0, 0)).reshape(part.shape)
