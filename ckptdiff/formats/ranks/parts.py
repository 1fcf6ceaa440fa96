"""One rank's part of a tensor, and how the parts of all ranks make up the whole one."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Chunk
from ckptdiff.errors import CorruptFile, MixedShards
from ckptdiff.formats.boxes import overlapping
from ckptdiff.formats.inert import told
from ckptdiff.formats.torch_zip import MAX_COUNT, MAX_DIMS, UnsupportedTensor
from ckptdiff.formats.wholes import Whole
from ckptdiff.text import format_box, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Box, TensorRef


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank holds of a tensor."""

    shape: tuple[int, ...]  # of the whole tensor
    dtype: str
    chunks: tuple[Chunk, ...]  # none for a rank that is left without any
    split: str = ""  # how the ranks split it, in words: they agree
    rank: int | None = None  # that saved it, where the part says so


def sizes_of(value: object) -> tuple[int, ...]:
    """Return a shape or offsets as a tuple. Raises CorruptFile if it is neither."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < MAX_COUNT for n in value)
    ):
        raise CorruptFile(f"{told(value)} is not a shape")
    return tuple(value)


def rank_of(value: object) -> int | None:
    """Return the number of a rank; None for what is none."""
    return value if type(value) is int and 0 <= value < MAX_COUNT else None


def part_in_words(value: object) -> str:
    """Return what lies where a rank's part of a tensor should, in few words."""
    return value.what if isinstance(value, UnsupportedTensor) else told(value)


def join(name: str, parts: Mapping[Path, Part]) -> Whole:
    """Return a tensor whose chunks are the parts of all ranks, by the file of each.

    Where several ranks hold a box, all but the first are copies. Raises MixedShards if the ranks do
    not agree what it is, CorruptFile if its parts overlap or leave a gap.
    """
    files = list(parts)
    first = parts[files[0]]
    for file, part in parts.items():
        if (part.shape, part.dtype, part.split) != (first.shape, first.dtype, first.split):
            raise MixedShards(
                f"{file}: {shown(name)} is {_words(part)}, in {files[0].name} it is "
                f"{_words(first)}; the files are of different saves"
            )
    chunks = [chunk for part in parts.values() for chunk in part.chunks]
    return whole_of(files[0].parent, name, first.shape, first.dtype, chunks)


def whole_of(
    folder: Path, name: str, shape: tuple[int, ...], dtype: str, chunks: Iterable[Chunk]
) -> Whole:
    """Return a tensor of these chunks, which have no copies; of equal boxes one becomes the chunk.

    Raises CorruptFile unless they fill it.
    """
    held: dict[Box, list[TensorRef]] = {}
    for chunk in chunks:
        held.setdefault(chunk.box, []).append(chunk.ref)
    _check_filled(folder, name, shape, held)
    joined = (Chunk(ref, box, tuple(copies)) for box, (ref, *copies) in held.items())
    return Whole(name, shape, dtype, tuple(joined))


def _words(part: Part) -> str:
    return f"{part.dtype} {shown(list(part.shape))}{part.split}"


def _check_filled(
    folder: Path, name: str, shape: tuple[int, ...], held: Mapping[Box, list[TensorRef]]
) -> None:
    """Raise CorruptFile unless boxes inside a tensor fill it, each element once."""
    filled = sum(prod(stop - start for start, stop in box) for box in held)
    if filled < prod(shape):
        raise CorruptFile(
            f"{folder}: {shown(name)} of shape {shown(list(shape))}: the ranks hold {shown(filled)}"
            f" of its {shown(prod(shape))} elements: a file of them is missing"
        )
    try:
        found = overlapping(list(held)) if shape else None
    except CorruptFile as error:
        raise CorruptFile(f"{folder}: {shown(name)}: {error}") from error
    if found is not None:
        one, other = (f"{format_box(box)} in {held[box][0].file.name}" for box in found)
        raise CorruptFile(
            f"{folder}: {shown(name)}: the parts {one} and {other} overlap: the files are of "
            "different saves; leave those of one of them here"
        )
