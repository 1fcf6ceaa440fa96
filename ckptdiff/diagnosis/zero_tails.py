"""Find files whose end was never written: from some byte on they hold zeros alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name
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
# Bytes of zeros at the end of a tensor that say nothing of what follows: it may end like that.
_BY_CHANCE = 512


def zero_tails(a: Assembled, b: Assembled, results: Sequence[TensorDiff]) -> Iterator[Finding]:
    """Yield a finding for each file of either side whose end is zeros, and is not on the other.

    The end of a file that is one whole tensor may also be one that was never loaded: that is left
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
    lies = sorted((ref.offset, ref.offset + ref.nbytes, name) for ref, name in held)
    hit = [
        (first, end, name)
        for first, end, name in lies
        if min(size, end) - max(first, start) > (0 if first >= start else _BY_CHANCE)
    ]
    if not hit:
        return
    start = max(start, hit[0][0])
    places = {(first, end) for first, end, _ in hit}
    if len(places) == 1 and start == hit[0][0]:
        return
    names = tuple(sorted({name for *_, name in hit}, key=list(side.tensors).index))
    numbers = [split_name(name)[1] for name in names]
    words = f"from byte {start:,} to the end of {file.name}, {size - start:,} bytes, all is 0"
    yield Finding(
        "DAMAGED",
        "fault",
        f"{letter}: {words}: copy the file again",
        tensors=names,
        layers=tuple(sorted({n[0] for n in numbers if n})),
        experts=tuple(sorted({n[1] for n in numbers if len(n) > 1})),
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
