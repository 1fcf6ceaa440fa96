"""Whole tensors that lie in parts, in one file or several: chunks, and flat ranges of elements."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import TensorRef, contiguous
from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Box, Chunk


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole tensor and the chunks that hold it: as stored, or of one layer or expert of it."""

    native: str  # the name of the stored tensor
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]


def addressed(
    file: Path, wholes: Mapping[str, Whole]
) -> tuple[dict[str, TensorRef], dict[TensorRef, tuple[Chunk, ...]]]:
    """Return a ref for each whole tensor by name, and the chunks of each ref.

    Chunks have the box that they fill in the tensor. `file` is what errors name. The refs lie end
    to end, as in one file that holds them all: so a view of one, with an offset and strides of its
    own, can be told from a view of another.
    """
    tensors: dict[str, TensorRef] = {}
    chunks: dict[TensorRef, tuple[Chunk, ...]] = {}
    offset = 0
    for name, whole in wholes.items():
        ref = TensorRef(
            whole.native, whole.shape, whole.dtype, file, offset, contiguous(whole.shape)
        )
        tensors[name] = ref
        chunks[ref] = whole.chunks
        offset += max(prod(whole.shape), 1) * ITEMSIZE[whole.dtype]
    return tensors, chunks


def boxes_of_range(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[Box, int]]:
    """Yield boxes that make up elements `start:stop` of a row-major tensor.

    With each comes the index of its first element in the flattened tensor.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield ((start, stop),) if shape else (), start
        return
    inner = prod(shape[1:])
    row = start // inner
    if start % inner:
        end = min(stop, (row + 1) * inner)
        for box, at in boxes_of_range(shape[1:], start - row * inner, end - row * inner):
            yield ((row, row + 1), *box), at + row * inner
        row, start = row + 1, end
    last = stop // inner
    if start < stop and row < last:
        yield ((row, last), *((0, n) for n in shape[1:])), row * inner
        start = last * inner
    if start < stop:
        for box, at in boxes_of_range(shape[1:], start - last * inner, stop - last * inner):
            yield ((last, last + 1), *box), at + last * inner
