"""Quantised matrices: codes of 8 or 4 bits, and a factor for each block of rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.kernels.dtypes import bits, values
from ckptdiff.kernels.memory import matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptdiff.kernels.views import View


def number_dtype(view: View) -> str:
    """Return the dtype of a view's numbers: F32 if it is quantised, as codes times factors are."""
    return view.dtype if view.scaling is None else "F32"


def _code_dtype(view: View) -> str:
    return "F4" if view.scaling is not None and view.scaling.in_halves else view.dtype


def dequantised(codes: NDArray[Any], view: View, at: tuple[int, int]) -> NDArray[Any]:
    """Return the numbers, float32, of a tile of a view: each code times its block's factor.

    `codes`, (rows, columns), start at the row and column `at` of the view. A view without factors
    gives its codes as they are. Raises CorruptFile and UnreadableFile.
    """
    scaling = view.scaling
    if scaling is None or not codes.size:
        return codes
    rows = (scaling.at[0] + at[0] + np.arange(codes.shape[0])) // scaling.block[0]
    columns = (scaling.at[1] + at[1] + np.arange(codes.shape[1])) // scaling.block[1]
    first, last = (rows[0], columns[0]), (rows[-1] + 1, columns[-1] + 1)
    stored = matrix(scaling.factors)[first[0] : last[0], first[1] : last[1]]
    factors = values(stored, scaling.factors.dtype).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if scaling.second is not None:
            second = values(matrix(scaling.second), scaling.second.dtype).astype(np.float32)
            factors = factors / second if scaling.is_divisor else factors * second
        numbers: NDArray[Any] = values(codes, _code_dtype(view)).astype(np.float32)
        numbers *= factors[np.ix_(rows - first[0], columns - first[1])]
    return numbers


def same_factors(a: View, b: View) -> bool:
    """Return whether both views have factors, for the same blocks and bit-equal."""
    one, other = a.scaling, b.scaling
    if one is None or other is None or a.dtype != b.dtype:
        return False
    if (one.block, one.at, one.in_halves) != (other.block, other.at, other.in_halves):
        return False
    if (one.factors.shape, one.factors.dtype) != (other.factors.shape, other.factors.dtype):
        return False
    if one.is_divisor != other.is_divisor or (one.second is None) != (other.second is None):
        return False
    pairs = [(one.factors, other.factors)]
    if one.second is not None and other.second is not None:
        if one.second.dtype != other.second.dtype:
            return False
        pairs.append((one.second, other.second))
    return all(bool((bits(matrix(x)) == bits(matrix(y))).all()) for x, y in pairs)
