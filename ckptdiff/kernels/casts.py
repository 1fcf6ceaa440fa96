"""Cast elements to another dtype (round to nearest, ties to even), and count what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.kernels.dtypes import rounded, values
from ckptdiff.kernels.memory import RAW
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cast(raw: NDArray[Any], dtype: str, to: str) -> tuple[NDArray[Any], Loss]:
    """Return the elements in the dtype `to`, and counts of those whose number changed.

    `raw` has the numpy dtype `RAW[dtype]` and any shape; the result has `RAW[to]` and that shape.
    """
    if dtype in _WITHIN_FLOAT32 and to in _WITHIN_FLOAT32:
        before = _to_float32(raw, dtype)
        result = _from_float32(before, to)
        return result, _loss(before, _to_float32(result, to))
    codes = rounded(raw, dtype, to)
    result = codes.astype(f"<u{RAW[to].itemsize}").view(RAW[to])
    return result, _loss(values(raw, dtype), values(result, to))


_WITHIN_FLOAT32 = frozenset({"BF16", "F16", "F32"})  # a float32 holds each of their numbers


def _to_float32(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16).astype(np.float32) if dtype == "F16" else raw


def _from_float32(numbers: NDArray[Any], to: str) -> NDArray[Any]:
    if to == "F32":
        return numbers
    if to == "F16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    codes = np.ascontiguousarray(numbers).view(np.uint32)
    # To nearest, ties to even: add half a BF16 step less one bit, and that bit where the last bit
    # of the BF16 is odd.
    upper = ((codes + 0x7FFF + ((codes >> 16) & 1)) >> 16).astype(np.uint16)
    # The carry would turn some NaNs into infinity. A NaN keeps its upper bits and becomes quiet.
    return np.where(np.isnan(numbers), (codes >> 16).astype(np.uint16) | 0x40, upper)


def _loss(before: NDArray[Any], after: NDArray[Any]) -> Loss:
    with np.errstate(invalid="ignore"):
        changed = (before != after) & ~np.isnan(before)
    if not changed.any():
        return Loss()
    return Loss(
        int(np.count_nonzero(changed)),
        int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(after))),
        int(np.count_nonzero((after == 0) & (before != 0))),
    )
