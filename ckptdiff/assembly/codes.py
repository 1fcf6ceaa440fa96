"""Packed weights whose numbers are known: codes, and the factors that they are multiplied by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import BlockScale, TensorRef, contiguous
from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from ckptdiff.config.quantisation import Quantisation

NUMBERED_FP8 = frozenset(("F8_E4M3", "F8_E5M2"))
_FACTORS = frozenset(("F32", "BF16", "F16"))
_POWERS = frozenset(("U8", "F8_E8M0"))
_MX_BYTES, _MX_BLOCK = 16, 32  # of a block of mxfp4: its bytes, and its columns


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of a packed weight and their factors. A code has the size 1 in offset and strides.

    Codes of half a byte are counted in halves, as `BlockScale.in_halves` says.
    """

    ref: TensorRef  # in the shape of the plain weight, which may turn the stored matrices
    matrix: tuple[int, int]  # rows and columns of each matrix as it is stored, one after the other
    factors: TensorRef  # (matrices, rows of blocks, columns of blocks)
    block: tuple[int, int]  # rows and columns that share a factor
    in_halves: bool = False
    second: TensorRef | None = None
    is_divisor: bool = False

    def part(self, view: TensorRef, words: str) -> TensorRef | None:
        """Return a view of `ref` with its factors; None if it is no rows of one stored matrix."""
        rows, columns = self.matrix
        if len(view.shape) != 2 or 0 in view.shape or view.shape[1] != columns:
            return None
        number, first = divmod(view.offset - self.ref.offset, rows * columns)
        start, column = divmod(first, columns)
        step, rest = divmod(view.stride[0], columns)
        if column or rest or view.stride[1] != 1:
            return None
        (down, across), (per_matrix, per_row, per_column) = self.block, self.factors.stride
        skipped, height = number * per_matrix, down
        if down >= rows:
            height = view.shape[0]
        elif down == 1:
            skipped, per_row = skipped + start * per_row, step * per_row
        elif step == 1 and not start % down:
            skipped += start // down * per_row
        else:
            return None
        factors = replace(
            self.factors,
            shape=(-(-view.shape[0] // height), self.factors.shape[2]),
            stride=(per_row, per_column),
            offset=self.factors.offset + skipped * ITEMSIZE[self.factors.dtype],
        )
        scale = BlockScale(
            factors, (height, across), self.in_halves, words, self.second, self.is_divisor
        )
        return replace(view, scale=scale)


def codes_in_blocks(blocks: TensorRef, scales: TensorRef) -> Codes | None:
    """Return gpt-oss's codes: `_blocks` (experts, rows, blocks, 16 bytes), without experts too.

    The plain weight is (experts, columns, rows). None if it is not stored so.
    """
    if blocks.shape[-1] != _MX_BYTES or len(blocks.shape) > 4 or 0 in blocks.shape:
        return None
    if scales.dtype not in _POWERS or not _is_plain(blocks):
        return None
    *lead, rows, count, _ = blocks.shape
    columns = count * _MX_BLOCK
    ref = replace(blocks, shape=(rows, columns), stride=(columns, 1), offset=2 * blocks.offset)
    if lead:
        ref = replace(ref, shape=(*lead, columns, rows), stride=(rows * columns, 1, columns))
    factors = replace(scales, dtype="F8_E8M0")
    if not lead:
        factors = replace(factors, shape=(1, *scales.shape), stride=(0, *scales.stride))
    return Codes(ref, (rows, columns), factors, (1, _MX_BLOCK), in_halves=True)


def codes_in_groups(
    codes: TensorRef,
    scale: TensorRef,
    group: int,
    *,
    in_halves: bool,
    second: TensorRef | None = None,
    is_divisor: bool = False,
) -> Codes | None:
    """Return a matrix of which `group` columns share a factor, with a second one for all if given.

    None if it is not stored so.
    """
    if len(codes.shape) != 2 or 0 in codes.shape or not _is_plain(codes):
        return None
    if second is not None and (second.dtype not in _FACTORS or not set(second.shape) <= {1}):
        return None
    rows, columns = codes.shape
    ref = codes
    if in_halves:
        columns *= 2
        ref = replace(codes, shape=(rows, columns), stride=(columns, 1), offset=2 * codes.offset)
    if scale.shape != (rows, -(-columns // group)):
        return None
    factors = replace(scale, shape=(1, *scale.shape), stride=(0, *scale.stride))
    if scale.dtype == "U8":
        factors = replace(factors, dtype="F8_E8M0")
    if second is not None:
        second = replace(second, shape=(1, 1), stride=(1, 1))
    return Codes(ref, (rows, columns), factors, (1, group), in_halves, second, is_divisor)


def codes_of_fp8(codes: TensorRef, scale: TensorRef, stated: Quantisation) -> Codes | None:
    """Return a matrix of fp8 with one factor, one for each row, or one for each block of both.

    None if it is none of them.
    """
    if codes.dtype not in NUMBERED_FP8 or scale.dtype not in _FACTORS or not _is_plain(codes):
        return None
    if len(codes.shape) != 2 or 0 in codes.shape:
        return None
    rows, columns = codes.shape
    down, across = stated.block
    by_block = (-(-rows // down), -(-columns // across))
    if set(scale.shape) <= {1}:
        block, shape, stride = (rows, columns), (1, 1), (1, 1)
    elif scale.shape in ((rows,), (rows, 1)):
        block, shape, stride = (1, columns), (rows, 1), (scale.stride[0], 1)
    elif scale.shape == by_block:
        block, shape, stride = (down, across), by_block, (scale.stride[0], scale.stride[1])
    else:
        return None
    factors = replace(scale, shape=(1, *shape), stride=(0, *stride))
    return Codes(codes, (rows, columns), factors, block)


def _is_plain(ref: TensorRef) -> bool:
    return ref.stride == contiguous(ref.shape)
