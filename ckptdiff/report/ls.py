"""The result of `ckptdiff ls` as JSON and text: canonical tensors, or native names by file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.accounting import repeated, unlisted
from ckptdiff.comparison.packed import schemes_of
from ckptdiff.formats import read_entries
from ckptdiff.report.diff import (
    family_of,
    side_document,
    side_line,
)
from ckptdiff.report.shortfall import incomplete_lines, shortfall_document
from ckptdiff.text import format_box, format_bytes, format_shape, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Box, TensorRef

_HEAD = ("path", "hub", "format", "family", "iteration", "parallelism")
MAX_NAMED = 4  # tensors that a line names which counts them


def listing_document(side: Assembled, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff ls`, schema `ckptdiff.ls/1`."""
    head = side_document(side)
    entries = (*read_entries(side.checkpoint), *side.derived)
    return {
        "schema": "ckptdiff.ls/1",
        **{key: head[key] for key in _HEAD},
        "bytes": head["bytes"],
        "notes": head["notes"],
        "names": head["names"],
        "adapter": head["adapter"],
        "not_read": head["not_read"],
        **shortfall_document(side),
        "tensors": [
            {
                "name": assembly.name,
                "dtype": assembly.dtype,
                "shape": assembly.shape,
                "bytes": assembly.nbytes,
                "pieces": _pieces(side, assembly),
            }
            for assembly in side.tensors.values()
            if wanted(assembly.name)
        ],
        "unmapped": list(side.unmapped),
        "repeated": [{"name": name, "of": of} for name, of in repeated(side).items()],
        "unlisted": unlisted(side),
        "errors": {name: error.text for name, error in side.errors.items()},
        "packed": [
            {
                "scheme": w.scheme,
                "form": w.form,
                "shape": w.shape,
                "name": name,
                "stored_as": w.stored,
                "problem": w.problem,
            }
            for name, w in side.packed.items()
        ],
        "other": [{"name": e.name, "kind": e.kind, "text": e.text} for e in entries],
    }


def _pieces(side: Assembled, assembly: Assembly) -> list[dict[str, Any]]:
    """Return where each piece is stored: `offset` is in bytes, `stride` in elements."""
    return [
        {
            "file": side.checkpoint.relative(piece.ref.file),
            "key": piece.ref.name,
            "box": piece.box,
            "of": piece.of,
            "offset": piece.ref.offset_of(tuple(start for start, _ in piece.of)),
            "stride": piece.ref.stride,
            "copies": [side.checkpoint.relative(copy.ref.file) for copy in piece.copies],
        }
        for piece in assembly.pieces
    ]


def listing_lines(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the table of `ckptdiff ls`, line by line."""
    yield side_line(side)
    yield from incomplete_lines(side)
    yield ""
    shown = [assembly for assembly in side.tensors.values() if wanted(assembly.name)]
    width = max((len(printable(assembly.name)) for assembly in shown), default=0)
    dtype_width = max(5, *(len(printable(assembly.dtype)) for assembly in shown), 0)
    for assembly in shown:
        shape = format_shape(assembly.shape)
        where = f"{len({p.ref.file for p in assembly.pieces})} files"
        dtype = f"{printable(assembly.dtype):{dtype_width}}"
        yield (
            f"{printable(assembly.name):{width}}  {dtype}  {shape:14}"
            f"{format_bytes(assembly.nbytes):>8}  {where if where != '1 files' else ''}"
        ).rstrip()
    for name in side.unmapped:
        yield f"{printable(name)}  no rule of {family_of(side)} knows it"
    for name, error in side.errors.items():
        yield f"{printable(name)}  {printable(error.text)}"
    for way, count in schemes_of(side).items():
        parts = {part for w in side.packed.values() if w.text == way for part in w.parts}
        weights = "1 weight is" if count == 1 else f"{count} weights are"
        yield f"{weights} packed as {way}, in {len(parts)} of these tensors"
    if side.derived:
        yield f"{len(side.derived)} buffers that follow from the config"
    if copies := repeated(side):
        yield from _counted(
            f"{len(copies)} stored tensors repeat another one",
            [f"{name} ({of})" for name, of in copies.items()],
        )
    if left := unlisted(side):
        yield from _counted(f"{len(left)} stored tensors belong to no tensor above", left)
    others = read_entries(side.checkpoint)
    if others:
        yield f"{len(others)} other entries (args, optimizer, …): --json lists them"


def _counted(words: str, names: Sequence[str]) -> Iterator[str]:
    """Yield one line that counts tensors and names the first of them."""
    more = ", …" if len(names) > MAX_NAMED else ""
    yield f"{words}: {printable(', '.join(names[:MAX_NAMED]))}{more}"


def raw_document(side: Assembled, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff ls --raw`, schema `ckptdiff.ls/1`: by file."""
    head = side_document(side)
    return {
        "schema": "ckptdiff.ls/1",
        **{key: head[key] for key in _HEAD},
        "notes": head["notes"],
        "not_read": head["not_read"],
        "files": [
            {
                "file": side.checkpoint.relative(file),
                "tensors": [
                    {
                        "name": part.name,
                        "chunk": part.chunk,
                        "dtype": part.ref.dtype,
                        "shape": part.ref.shape,
                        "offset": part.ref.offset,
                        "bytes": part.ref.nbytes,
                        **({} if part.box is None else {"box": part.box}),
                    }
                    for part in parts
                ],
            }
            for file, parts in _by_file(side, wanted)
        ],
    }


def raw_lines(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the lines of `ckptdiff ls --raw`: native names, file by file."""
    notes = (*side.checkpoint.notes, *side.notes)
    yield from (f"({printable(note)})" for note in notes)
    for file, parts in _by_file(side, wanted):
        yield printable(side.checkpoint.relative(file))
        for part in parts:
            name = printable(part.name)
            if part.chunk:
                name = f"model{part.chunk}: {name}"
            box = "" if part.box is None else f" {format_box(part.box)}"
            yield (
                f"  {name}{box}  {part.ref.dtype}  {format_shape(part.ref.shape)}  "
                f"{format_bytes(part.ref.nbytes)}  @{part.ref.offset}"
            )


@dataclass(frozen=True, slots=True)
class _Raw:
    """A stored tensor in one file, or a chunk of one in a format that splits tensors."""

    name: str  # native
    chunk: int  # virtual pipeline chunk
    ref: TensorRef
    box: Box | None = None  # of a chunk, in the whole stored tensor


def _by_file(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[tuple[Path, list[_Raw]]]:
    """Yield each file with what it stores, in the order of offsets."""
    files: dict[Path, list[_Raw]] = {file: [] for file in side.checkpoint.files}
    chunks = side.checkpoint.chunks
    for shard in side.checkpoint.shards:
        for ref in shard.tensors.values():
            if chunks is None:
                if wanted(ref.name):
                    files[ref.file].append(_Raw(ref.name, shard.chunk, ref))
                continue
            for part in chunks[ref] if wanted(ref.name) else ():
                for held in part.refs:
                    raw = _Raw(ref.name, shard.chunk, held, part.box)
                    files.setdefault(held.file, []).append(raw)
    for file, parts in files.items():
        yield file, sorted(parts, key=lambda part: part.ref.offset)
