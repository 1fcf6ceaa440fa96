"""Where the chunks of a distributed checkpoint's tensors lie, by `.metadata` and their headers."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Chunk, TensorRef
from ckptdiff.errors import CorruptFile, MissingShard
from ckptdiff.formats import torch_zip
from ckptdiff.formats.dcp import box_of
from ckptdiff.formats.files import each_file, open_regular
from ckptdiff.formats.unfinished import METADATA
from ckptdiff.formats.wholes import Whole
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ckptdiff.formats.dcp import Described, Record
    from ckptdiff.formats.files import Progress

_OTHER_SAVE = "was cut off or damaged, or is of another save than .metadata; copy it again"


def read_wholes(
    root: Path, described: Iterable[Described], progress: Progress | None
) -> list[Whole]:
    """Return tensors with the chunks that hold them. Raises as `read_chunks` does."""
    described = list(described)
    refs = read_chunks(root, described, progress)
    return [
        Whole(
            tensor.name,
            tensor.shape,
            tensor.dtype,
            tuple(
                Chunk(refs[key_of(tensor, record)], box_of(record.offsets, record.sizes))
                for record in tensor.records
            ),
        )
        for tensor in described
    ]


def read_chunks(
    root: Path, described: Iterable[Described], progress: Progress | None
) -> dict[tuple[str, str], TensorRef]:
    """Return where each chunk is stored, by the name of its tensor and its offsets in it, as text.

    Raises MissingShard if files are missing, CorruptFile if one holds something else, or if they
    are too small for what `.metadata` puts into them.
    """
    by_file: dict[Path, list[tuple[Described, Record]]] = defaultdict(list)
    for tensor in described:
        for record in tensor.records:
            by_file[root / record.file].append((tensor, record))
    missing = sorted(file.name for file in by_file if not file.exists())
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise MissingShard(
            f"{root}: {len(missing)} of {len(by_file)} files {are} missing: "
            f"{', '.join(missing[:5])}. Copy them beside .metadata."
        )
    there = sum(file.stat().st_size for file in by_file)
    records = (record for wanted in by_file.values() for _, record in wanted)
    claimed = sum(record.length for record in records)
    if claimed > torch_zip.CLAIM + torch_zip.CLAIM_PER_BYTE * there:
        raise CorruptFile(
            f"{root / METADATA}: puts chunks of {shown(claimed)} bytes into files of {there}"
        )

    def read(file: Path) -> list[tuple[tuple[str, str], TensorRef]]:
        return list(_chunk_refs(file, by_file[file]))

    return {key: ref for _, refs in each_file(sorted(by_file), read, progress) for key, ref in refs}


def key_of(tensor: Described, record: Record) -> tuple[str, str]:
    """Return the key of a chunk in what `read_chunks` returns."""
    # A text: many tuples of chosen numbers can have one hash.
    return tensor.name, str(record.offsets)


def _chunk_refs(
    file: Path, wanted: Iterable[tuple[Described, Record]]
) -> Iterator[tuple[tuple[str, str], TensorRef]]:
    with open_regular(file) as fd:
        size = os.fstat(fd).st_size
        for tensor, record in wanted:
            stop = record.start + record.length
            if stop > size:
                raise CorruptFile(
                    f"{file}: has {shown(size)} bytes, and .metadata puts a chunk of "
                    f"{shown(tensor.name)} at bytes {shown(record.start)} to {shown(stop)}: the "
                    f"file {_OTHER_SAVE}"
                )
            try:
                ref = torch_zip.read_blob(file, fd, record.start, record.length)
            except CorruptFile as error:
                raise CorruptFile(
                    f"{file}: at byte {shown(record.start)} is no chunk of {shown(tensor.name)}, "
                    f"as .metadata names: the file {_OTHER_SAVE}"
                ) from error
            if not isinstance(ref, TensorRef) or (ref.shape, ref.dtype) != (
                record.sizes,
                tensor.dtype,
            ):
                raise CorruptFile(
                    f"{file}: at byte {shown(record.start)} is not the {tensor.dtype} chunk "
                    f"{shown(record.sizes)} of {shown(tensor.name)} that .metadata names: the file "
                    f"{_OTHER_SAVE}"
                )
            yield key_of(tensor, record), torch_zip.named(ref, tensor.name)
