"""Find files whose end was never written: from some byte on they hold zeros alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.files import open_regular, read_at
from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.results import TensorDiff

_CHUNK = 1 << 20  # bytes read at once
_MAX_READ = 1 << 30  # bytes of one file that are looked at: a longer tail begins before
# Bytes of zeros at the end of a tensor or of a row that say nothing: it may end like that.
_BY_CHANCE = 64
_END_OF_ROW = 16


def zero_tails(a: Assembled, b: Assembled, results: Sequence[TensorDiff]) -> Iterator[Finding]:
    """Yield a finding for each file of either side whose end is zeros, and is not on the other.

    A tail of whole rows of one tensor alone may as well have been filled by a program: that is left
    to other findings.
    """
    differing = {r.name for r in results if r.status == "differ"}
    for letter, side in (("B", b), ("A", a)):
        for file, held in _differing_by_file(side, differing).items():
            yield from _of_file(letter, file, held, side)


def _differing_by_file(
    side: Assembled, differing: set[str]
) -> dict[Path, list[tuple[TensorRef, str]]]:
    """Return, by file, the stored tensors that are pieces of differing ones, with those' names."""
    found: dict[Path, list[tuple[TensorRef, str]]] = {}
    for name in differing & side.tensors.keys():
        for piece in side.tensors[name].pieces:
            if piece.part_of in ("", name):
                found.setdefault(piece.ref.file, []).append((piece.ref, name))
    return found


def _of_file(
    letter: str, file: Path, held: list[tuple[TensorRef, str]], side: Assembled
) -> Iterator[Finding]:
    """Yield the finding of one file, if its end is zeros and differing tensors lie in it."""
    try:
        with open_regular(file) as fd:
            size = os.fstat(fd).st_size
            start = _start_of_tail(fd, size)
    except CkptDiffError:  # the comparison reported it
        return
    if start == size:
        return
    hit = [
        (ref, name)
        for ref, name in sorted(held, key=lambda item: item[0].offset)
        if min(size, ref.offset + ref.nbytes) - max(ref.offset, start)
        > (0 if ref.offset >= start else _BY_CHANCE)
    ]
    if not hit:
        return
    first, _ = hit[0]
    start = max(start, first.offset)
    row = first.nbytes // max(1, first.shape[0]) if first.shape else first.nbytes
    is_whole_rows = (first.offset - start) % max(1, row) < _END_OF_ROW
    if is_whole_rows and all(ref.offset == first.offset for ref, _ in hit):
        return
    names = tuple(sorted({name for _, name in hit}, key=list(side.tensors).index))
    words = f"from byte {start:,} to the end of {file.name}, {size - start:,} bytes, all is 0"
    yield Finding(
        "DAMAGED",
        "fault",
        f"{letter}: {words}: copy the file again",
        tensors=names,
        layers=layers_of(names),
        experts=experts_of(names),
        evidence=f"{file}: a write or a copy did not get further than byte {start:,} of {size:,}",
        cause="the file was not written or copied whole",
    )


def _start_of_tail(fd: int, size: int) -> int:
    """Return from which byte on a file is zeros to its end; its size if its last byte is not."""
    start = size
    while start > max(0, size - _MAX_READ):
        first = max(0, start - _CHUNK)
        chunk = read_at(fd, first, start - first)
        kept = len(chunk.rstrip(b"\0"))
        if kept:
            return first + kept
        start = first
    return start
