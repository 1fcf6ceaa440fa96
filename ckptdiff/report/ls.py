"""List one checkpoint in words and in JSON: canonical tensors, or native names file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.formats import read_entries
from ckptdiff.report.diff import family_of, relative_path, side_document, side_line
from ckptdiff.text import format_bytes, format_shape, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptdiff.assembly.recipe import Assembled, Assembly


def listing_document(side: Assembled, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff ls`, schema `ckptdiff.ls/1`."""
    head = side_document(side)
    entries = (*read_entries(side.checkpoint), *side.derived)
    return {
        "schema": "ckptdiff.ls/1",
        **{key: head[key] for key in ("path", "format", "family", "iteration", "parallelism")},
        "bytes": head["bytes"],
        "notes": head["notes"],
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
        "errors": {name: error.text for name, error in side.errors.items()},
        "other": [{"name": e.name, "kind": e.kind, "text": e.text} for e in entries],
    }


def _pieces(side: Assembled, assembly: Assembly) -> list[dict[str, Any]]:
    return [
        {
            "file": relative_path(side, piece.ref.file),
            "key": piece.ref.name,
            "box": piece.box,
            "of": piece.of,
            "offset": piece.ref.offset
            + ITEMSIZE[piece.ref.dtype]
            * sum(n * step for (n, _), step in zip(piece.of, piece.ref.stride, strict=True)),
            "stride": piece.ref.stride,
            "copies": [relative_path(side, copy.ref.file) for copy in piece.copies],
        }
        for piece in assembly.pieces
    ]


def listing_lines(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the table of `ckptdiff ls`, line by line."""
    yield side_line(side)
    yield ""
    shown = [assembly for assembly in side.tensors.values() if wanted(assembly.name)]
    width = max((len(printable(assembly.name)) for assembly in shown), default=0)
    for assembly in shown:
        shape = format_shape(assembly.shape)
        where = f"{len({p.ref.file for p in assembly.pieces})} files"
        yield (
            f"{printable(assembly.name):{width}}  {assembly.dtype:5}  {shape:14}"
            f"{format_bytes(assembly.nbytes):>8}  {where if where != '1 files' else ''}"
        ).rstrip()
    for name in side.unmapped:
        yield f"{printable(name)}  no rule of {family_of(side)} knows it"
    for name, error in side.errors.items():
        yield f"{printable(name)}  {printable(error.text)}"
    if side.derived:
        yield f"{len(side.derived)} buffers that follow from the config"
    others = read_entries(side.checkpoint)
    if others:
        yield f"{len(others)} other entries (args, optimizer, …): --json lists them"


def raw_document(side: Assembled, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return what `ckptdiff ls --raw --json` prints: native names, file by file."""
    head = side_document(side)
    return {
        "schema": "ckptdiff.ls/1",
        **{key: head[key] for key in ("path", "format", "family", "iteration", "parallelism")},
        "files": [
            {
                "file": relative_path(side, file),
                "tensors": [
                    {
                        "name": ref.name,
                        "chunk": chunk,
                        "dtype": ref.dtype,
                        "shape": ref.shape,
                        "offset": ref.offset,
                        "bytes": ref.nbytes,
                    }
                    for chunk, ref in refs
                ],
            }
            for file, refs in _by_file(side, wanted)
        ],
    }


def raw_lines(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the native names, file by file."""
    for file, refs in _by_file(side, wanted):
        yield printable(relative_path(side, file))
        for chunk, ref in refs:
            name = printable(ref.name) if not chunk else f"model{chunk}: {printable(ref.name)}"
            yield (
                f"  {name}  {ref.dtype}  {format_shape(ref.shape)}  "
                f"{format_bytes(ref.nbytes)}  @{ref.offset}"
            )


def _by_file(side: Assembled, wanted: Callable[[str], bool]) -> Iterator[tuple[Any, list[Any]]]:
    files: dict[Any, list[Any]] = {file: [] for file in side.checkpoint.files}
    for shard in side.checkpoint.shards:
        for ref in shard.tensors.values():
            if wanted(ref.name):
                files[ref.file].append((shard.chunk, ref))
    for file, refs in files.items():
        yield file, sorted(refs, key=lambda item: item[1].offset)
