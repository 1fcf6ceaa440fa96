"""Find files of other saves among those that tensors lie in parts in, by what differs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import cut_out
from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.diagnosis.thresholds import MIN_TOUCHED_SHARDS, MIN_VERSION_COSINE, STALE_CONFIDENCE
from ckptdiff.dtypes import FLOATS, narrower
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.results import Finding
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.results import TensorDiff

_PROBED = 3  # tensors by which it is told whether any file is right
_MEASURED = 16  # parts that differ, whose likeness to A's is measured
_MAX_NAMED = 4  # files


@dataclass(frozen=True, slots=True)
class _Part:
    """What a file of B holds of a tensor, and what A has there, in one dtype."""

    file: Path
    name: str
    expected: Assembly
    actual: Assembly


def stale_files(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], ask: ContentQueries
) -> Iterator[Finding]:
    """Yield a finding if all that differs lies in some of B's files, which hold it near A's values.

    Looks at checkpoints whose tensors lie in parts in several files. Where all files differ, or
    where a tensor differs in its shape, it is left to other findings.
    """
    differing = [r.name for r in results if r.status == "differ"]
    if b.checkpoint.chunks is None or a.merging is not None or len(differing) < 2:
        return
    if any(r.status == "differ" and r.numbers is None for r in results):
        return
    try:
        found = _wrong_parts(a, b, differing, ask)
    except UnsupportedLayout:  # quantised in blocks, which no part can be cut from
        return
    if not found:
        return
    wrong = Counter(part.file for part in found)
    names = tuple(name for name in b.tensors if name in {part.name for part in found})
    held = Counter(file for tensor in b.tensors.values() for file in _files_of(tensor))
    if any(wrong[file] < MIN_TOUCHED_SHARDS * held[file] for file in wrong):
        return
    step = -(-len(found) // _MEASURED)
    measured = ask.residuals([(p.expected, p.actual, p.actual.dtype) for p in found[::step]])
    near = [r for r in measured if r.cosine > MIN_VERSION_COSINE and not r.is_related]
    if 2 * len(near) <= len(measured):
        return
    files = sorted(b.checkpoint.relative(file) for file in wrong)
    listed = ", ".join(files[:_MAX_NAMED]) + (", …" if len(files) > _MAX_NAMED else "")
    of_others = plural(len(held) - len(wrong), "other file")
    yield Finding(
        "STALE",
        "fault",
        f"all that differs lies in {listed}",
        tensors=names,
        layers=layers_of(names),
        experts=experts_of(names),
        evidence=f"{sum(wrong.values())} of the {sum(held[f] for f in wrong)} parts there are near "
        f"A's, but not equal; all that the {of_others} hold of these tensors is equal",
        cause_confidence=STALE_CONFIDENCE,
        cause="the file is of another save" if len(wrong) == 1 else "they are of another save",
    )


def _wrong_parts(
    a: Assembled, b: Assembled, differing: Sequence[str], ask: ContentQueries
) -> list[_Part]:
    """Return the parts that differ; none if they are in all files that hold such tensors."""
    files = {name: set(_files_of(b.tensors[name])) for name in differing}
    most = max(map(len, files.values()))
    if most < 2:
        return []
    widest = (name for name in differing if len(files[name]) == most)
    probed = sorted(widest, key=lambda name: b.tensors[name].nbytes)[:_PROBED]
    parts = [part for name in probed for part in _parts(a, b, name)]
    if {part.file for part in _unequal(parts, ask)} == {part.file for part in parts}:
        return []
    parts = [part for name in differing for part in _parts(a, b, name)]
    found = _unequal(parts, ask)
    return [] if {part.file for part in found} == {part.file for part in parts} else found


def _unequal(parts: Sequence[_Part], ask: ContentQueries) -> list[_Part]:
    equal = ask.are_equal([(part.expected, part.actual) for part in parts])
    return [part for part, is_equal in zip(parts, equal, strict=True) if not is_equal]


def _parts(a: Assembled, b: Assembled, name: str) -> Iterator[_Part]:
    one, other = a.tensors[name], b.tensors[name]
    dtype = other.number_dtype
    if one.number_dtype in FLOATS and dtype in FLOATS:
        dtype = narrower(one.number_dtype, dtype)
    for piece in other.pieces:
        expected = replace(cut_out(one, piece.box), dtype=dtype)
        actual = replace(cut_out(other, piece.box), dtype=dtype)
        yield _Part(piece.ref.file, name, expected, actual)
        (cut,) = actual.pieces
        for copy in piece.copies:
            of_copy = replace(actual, pieces=(replace(cut, ref=copy.ref),))
            yield _Part(copy.ref.file, name, expected, of_copy)


def _files_of(tensor: Assembly) -> Iterator[Path]:
    """Yield the file of each piece of a tensor, and of each copy."""
    for piece in tensor.pieces:
        yield piece.ref.file
        yield from (copy.ref.file for copy in piece.copies)
