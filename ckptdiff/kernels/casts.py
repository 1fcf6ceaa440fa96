"""Cast elements to another dtype, to nearest with ties to even, and count what that loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.kernels.dtypes import rounded, values
from ckptdiff.kernels.memory import RAW
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cast(raw: NDArray[Any], dtype: str, to: str) -> tuple[NDArray[Any], Loss]:
    """Return the elements in the dtype `to`, as `RAW[to]`, and what was lost."""
    if dtype in _SINGLES and to in _SINGLES:
        before = _single(raw, dtype)
        made = _from_single(before, to)
        return made, _loss(before, _single(made, to))
    codes = rounded(raw, dtype, to)
    made = codes.astype(f"<u{RAW[to].itemsize}").view(RAW[to])
    return made, _loss(values(raw, dtype), values(made, to))


_SINGLES = frozenset({"BF16", "F16", "F32"})  # whose numbers a float32 holds


def _single(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16).astype(np.float32) if dtype == "F16" else raw


def _from_single(numbers: NDArray[Any], to: str) -> NDArray[Any]:
    if to == "F32":
        return numbers
    if to == "F16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    codes = np.ascontiguousarray(numbers).view(np.uint32)
    # To nearest, ties to even: half a step less one bit, and one more where the last bit is odd.
    upper = ((codes + 0x7FFF + ((codes >> 16) & 1)) >> 16).astype(np.uint16)
    # That carry would make an infinity of some NaNs: those keep their upper bits and become quiet.
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
