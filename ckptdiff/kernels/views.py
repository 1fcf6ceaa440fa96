"""What kernels are given: matrices and arrays inside files, as plain values that pickle small."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Box


@dataclass(frozen=True, slots=True)
class View:
    """A matrix inside a file: what a kernel maps and reads. Plain values, small to pickle."""

    file: str
    offset: int  # of the first element, in bytes
    shape: tuple[int, int]  # rows, columns
    stride: tuple[int, int]  # in elements
    dtype: str
    scaling: Scaling | None = None

    def crop(self, at: tuple[int, int], shape: tuple[int, int]) -> View:
        """Return the part of this shape that starts at this row and column."""
        first = at[0] * self.stride[0] + at[1] * self.stride[1]
        offset = self.offset + first * ITEMSIZE[self.dtype]
        scaling = self.scaling
        if scaling is not None:
            row, column = scaling.at
            scaling = Scaling(scaling.factors, scaling.block, (row + at[0], column + at[1]))
        return View(self.file, offset, shape, self.stride, self.dtype, scaling)


@dataclass(frozen=True, slots=True)
class Source:
    """An array inside a file, of any number of dimensions, and the box of a stretch it fills."""

    file: str
    offset: int  # of the first element, in bytes
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    dtype: str
    box: Box
    part_of: str  # the canonical tensor
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A run of a file that is to be written: one box of a tensor, row-major without a gap."""

    offset: int  # in the file to be written, in bytes
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[Source, ...]  # together they fill it, each element once

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Where the factors of a view's elements are."""

    factors: View
    block: tuple[int, int]  # rows and columns that share a factor
    at: tuple[int, int]  # row and column of the view's first element in the scaled matrix


@dataclass(frozen=True, slots=True)
class Block:
    """The same rectangle of one canonical tensor, as both sides store it."""

    at: tuple[int, int]  # row and column of its first element in the canonical matrix
    a: View
    b: View
