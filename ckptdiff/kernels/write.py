"""Write spans of files: gather their elements from where they are stored, cast, sum up."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.checkpoint import contiguous, row_major
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.casts import cast
from ckptdiff.kernels.memory import RAW, Reading, matrix
from ckptdiff.kernels.scales import dequantised
from ckptdiff.kernels.views import View
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptdiff.checkpoint import Box
    from ckptdiff.kernels.views import Source, Span

BLOCK = 1 << 20  # bytes that are gathered at once


@dataclass(slots=True)
class Sum:
    """What was written of one span."""

    checksum: int  # CRC-32 of its bytes
    losses: list[Loss]  # by its sources


def write(file: str, spans: Sequence[Span], *, checksums: bool) -> list[Sum]:
    """Write spans into a file that is there. Raises OSError, UnreadableFile or CorruptFile.

    Without `checksums`, they are all 0.
    """
    fd = os.open(file, os.O_WRONLY)
    try:
        with Reading() as reading:
            return [_write(fd, span, reading, checksums) for span in spans]
    finally:
        os.close(fd)


def _write(fd: int, span: Span, reading: Reading, checksums: bool) -> Sum:  # noqa: FBT001
    total, at = Sum(0, [Loss()] * len(span.sources)), span.offset
    for box in row_major(span.shape, max(1, BLOCK // ITEMSIZE[span.dtype])):
        content, parts = gather(span, box, total)
        if checksums:
            total.checksum = zlib.crc32(content, total.checksum)
        while content:
            count = os.pwrite(fd, content, at)
            at += count
            content = content[count:]
        reading.done(*parts)
    return total


def gather(span: Span, box: Box, total: Sum) -> tuple[memoryview, list[Source]]:
    """Return the bytes of a block, and the sources that were read for it.

    What lies in one run of a file is not copied: the bytes are those of the mapped file.
    """
    found = [
        (number, part)
        for number, source in enumerate(span.sources)
        for part in _inside(source, box)
    ]
    parts = [part for _, part in found]
    if len(found) == 1:
        (part,) = parts
        if part.dtype == span.dtype and part.scaling is None and _is_run(part):
            return _bytes_of(matrix(part)), parts
    block = np.empty(tuple(stop - start for start, stop in box), RAW[span.dtype])
    for number, part in found:
        at = zip(part.box, box, strict=True)
        target = block[tuple(slice(p[0] - b[0], p[1] - b[0]) for p, b in at)]
        held = matrix(part)
        dtype = part.dtype
        if part.scaling is not None:
            held, dtype = _numbers(held, part), "F32"
        if dtype == span.dtype:
            np.copyto(target, held)
        else:
            target[...], loss = cast(held, dtype, span.dtype)
            total.losses[number] = total.losses[number].plus(loss)
    return _bytes_of(block), parts


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _inside(source: Source, box: Box) -> Iterator[Source]:
    """Yield the part of a source that fills a box of the span."""
    inner = tuple((max(s[0], b[0]), min(s[1], b[1])) for s, b in zip(source.box, box, strict=True))
    if any(start >= stop for start, stop in inner):
        return
    skipped = [i[0] - s[0] for i, s in zip(inner, source.box, strict=True)]
    offset = sum(n * step for n, step in zip(skipped, source.stride, strict=True))
    scaling = source.scaling
    if scaling is not None:
        row, column = scaling.at
        scaling = replace(scaling, at=(row + skipped[-2], column + skipped[-1]))
    yield replace(
        source,
        offset=source.offset + offset * ITEMSIZE[source.dtype],
        shape=tuple(stop - start for start, stop in inner),
        box=inner,
        scaling=scaling,
    )


def _is_run(part: Source) -> bool:
    """Return whether its elements follow each other in the file."""
    dense = contiguous(part.shape)
    return all(n == 1 or s == d for n, s, d in zip(part.shape, part.stride, dense, strict=True))


def _numbers(codes: NDArray[Any], part: Source) -> NDArray[Any]:
    """Return the numbers of a quantised matrix."""
    rows, columns = part.shape[-2:]
    view = View(part.file, part.offset, (rows, columns), (0, 0), part.dtype, part.scaling)
    return dequantised(codes.reshape(rows, columns), view, (0, 0)).reshape(part.shape)
