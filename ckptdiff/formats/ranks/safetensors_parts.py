"""Safetensors files of one rank's parts each: `shard-0000R-model-0000I-of-0000N.safetensors`.

HuggingFaceStorageWriter of torch.distributed.checkpoint writes them. The metadata of each file
states at which row and column of the whole tensor each of its own begins. The whole shape is stated
nowhere: it is as far as the parts reach.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Checkpoint, Chunk, Entry, Parallelism, Rank, Shard
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile, MissingShard, MixedShards, UnsupportedLayout
from ckptdiff.formats import safetensors
from ckptdiff.formats.dcp import box_of
from ckptdiff.formats.files import each_file
from ckptdiff.formats.model_files import read_model_files
from ckptdiff.formats.ranks.parts import sizes_of, whole_of
from ckptdiff.formats.weight_files import LOADED
from ckptdiff.formats.wholes import addressed
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.formats.files import Progress

NAME = "dcp_safetensors"
_FILE = re.compile(r"shard-(\d{1,9})-model-\d+-of-\d+\.safetensors$")
_MAX_NAMED = 8  # numbers that a note or an error names


def sniff(path: Path) -> bool:
    """Return whether `path` is a folder of ranks' parts, without whole weights beside them."""
    if not path.is_dir():
        return False
    names = {child.name for child in path.iterdir()}
    return any(map(_FILE.match, names)) and not any(
        name in names or f"{name}.index.json" in names for name in LOADED
    )


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder from the headers of all its files; tensors are whole, in chunks.

    Raises MissingShard, MixedShards, CorruptFile, UnsupportedLayout or UnreadableFile.
    """
    files = tuple(sorted(child for child in path.iterdir() if _FILE.match(child.name)))
    by_name: dict[str, list[Chunk]] = {}
    for _, chunks in each_file(files, _chunks, progress):
        for name, chunk in chunks.items():
            by_name.setdefault(name, []).append(chunk)
    absent = _absent(files)
    try:
        wholes = {
            name: whole_of(path, name, _shape(name, found), found[0].ref.dtype, found)
            for name, found in by_name.items()
        }
    except CorruptFile as error:
        if not absent:
            raise
        raise MissingShard(f"{error}; there is none of rank {absent}") from error
    tensors, chunks_of = addressed(files[0], wholes)
    notes = [
        f"put together from {len(files)} files of ranks' parts, which state neither whole shapes "
        "nor how many ranks there were"
    ]
    if absent:
        notes.append(f"no file is of rank {absent}: it had nothing to save, or its file is missing")
    beside = read_model_files(path, notes)
    return Checkpoint(
        root=path,
        format=NAME,
        convention="hf",
        config=beside.config,
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, tensors),),
        files=files,
        notes=tuple(notes),
        token_files=beside.token_files,
        model_folder=beside.folder,
        chunks=chunks_of,
    )


def read_entries(checkpoint: Checkpoint) -> list[Entry]:  # noqa: ARG001 -- of every format
    """Return nothing: safetensors hold only weights."""
    return []


def _chunks(file: Path) -> dict[str, Chunk]:
    """Return the part that a file holds of each tensor, with its box in the whole one."""
    refs, stated = safetensors.read_part(file)
    return {name: Chunk(ref, _box(file, ref, stated)) for name, ref in refs.items()}


def _box(file: Path, ref: TensorRef, stated: Mapping[str, object]) -> tuple[tuple[int, int], ...]:
    place = stated.get(ref.name)
    try:
        offsets = sizes_of(place.get("saved_offsets") if isinstance(place, dict) else None)
    except CorruptFile as error:
        raise CorruptFile(f"{file}: {shown(ref.name)}: its place is not stated: {error}") from error
    if len(offsets) != len(ref.shape):
        raise CorruptFile(
            f"{file}: {shown(ref.name)} of shape {shown(list(ref.shape))} is at "
            f"{shown(list(offsets))}"
        )
    if ref.dtype not in ITEMSIZE:
        raise UnsupportedLayout(
            f"{file}: {shown(ref.name)} is {ref.dtype}, of which parts cannot be joined; join them "
            "with torch.distributed.checkpoint._consolidate_hf_safetensors"
        )
    return box_of(offsets, ref.shape)


def _shape(name: str, chunks: list[Chunk]) -> tuple[int, ...]:
    """Return how far the parts of a tensor reach. Raises MixedShards if they are of two kinds."""
    first = chunks[0]
    for chunk in chunks:
        if (chunk.ref.dtype, len(chunk.box)) != (first.ref.dtype, len(first.box)):
            raise MixedShards(
                f"{chunk.ref.file}: {shown(name)} is {chunk.ref.dtype} of {len(chunk.box)} "
                f"dimensions, in {first.ref.file.name} it is {first.ref.dtype} of "
                f"{len(first.box)}; the files are of different saves"
            )
    return tuple(max(stop for _, stop in along) for along in zip(*(c.box for c in chunks)))  # noqa: B905


def _absent(files: tuple[Path, ...]) -> str:
    """Return the numbers below the highest of which there is no file, in words; or nothing."""
    found = sorted({int(match[1]) for file in files if (match := _FILE.match(file.name))})
    absent: list[int] = []
    for before, number in zip([0, *found], found, strict=False):
        absent += range(before + 1, min(number, before + 2 + _MAX_NAMED))
    more = ", …" if len(absent) > _MAX_NAMED else ""
    return ", ".join(map(str, absent[:_MAX_NAMED])) + more
