"""Where matrices and arrays lie inside files: what kernels are given. Plain, small to pickle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Box


@dataclass(frozen=True, slots=True)
class View:
    """A matrix inside a file: what a kernel maps and reads."""

    file: str
    offset: int  # of the first element, in bytes
    shape: tuple[int, int]  # rows, columns
    stride: tuple[int, int]  # in elements
    dtype: str
    scaling: Scaling | None = None
    added: Added | None = None

    def crop(self, at: tuple[int, int], shape: tuple[int, int]) -> View:
        """Return the view of a part: rows and columns `shape`, from the row and column `at` on."""
        first = at[0] * self.stride[0] + at[1] * self.stride[1]
        offset = self.offset + first * ITEMSIZE[self.dtype]
        scaling = self.scaling
        if scaling is not None:
            row, column = scaling.at
            scaling = replace(scaling, at=(row + at[0], column + at[1]))
        return View(self.file, offset, shape, self.stride, self.dtype, scaling, self.added)


@dataclass(frozen=True, slots=True)
class Source:
    """An array inside a file, of any number of dimensions, and the box of a Span that it fills."""

    file: str
    offset: int  # of the first element, in bytes
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    dtype: str
    box: Box  # in the span: start and stop of each dimension
    part_of: str  # name of the canonical tensor
    scaling: Scaling | None = None
    added: Added | None = None
    # With `scaling`: which dimensions are the rows and the columns; all others have size 1.
    matrix_dims: tuple[int, int] = (-2, -1)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of a file to be written: one box of a tensor, row-major, without gaps."""

    offset: int  # in the file to be written, in bytes
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[Source, ...]  # their boxes fill it, each element once

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Where the factors of a quantised view are."""

    factors: View  # one element per block
    block: tuple[int, int]  # rows and columns that have one factor
    at: tuple[int, int]  # row and column of the view's first element in the scaled matrix
    # Codes are halves of bytes, as in `checkpoint.BlockScale`: offset and strides count those.
    in_halves: bool = False
    second: View | None = None  # (1, 1): what the factors are multiplied by, or divided
    is_divisor: bool = False

    @property
    def files(self) -> set[str]:
        return {view.file for view in (self.factors, self.second) if view is not None}


@dataclass(frozen=True, slots=True)
class Added:
    """What is added to the numbers of a view: `checkpoint.LowRank`, with its parts as views.

    Each part comes with the row and column of its first element in `up` or `down`.
    """

    up: tuple[tuple[tuple[int, int], View], ...]  # (rows, rank)
    down: tuple[tuple[tuple[int, int], View], ...]  # (rank, columns)
    shape: tuple[int, int]  # rows and columns of the product
    rank: int
    factor: float
    origin: int  # of the element that gets the product's first one, in bytes from the file's start
    steps: tuple[int, int]  # in the file, from row to row and from column to column, in elements
    is_rounded: bool = False  # to the dtype of the weight before it is added

    @property
    def files(self) -> set[str]:
        return {view.file for _, view in (*self.up, *self.down)}


@dataclass(frozen=True, slots=True)
class Block:
    """The same rectangle of one canonical tensor, as both sides store it."""

    at: tuple[int, int]  # row and column of its first element in the canonical matrix
    a: View
    b: View
