"""Quantised matrices: codes of 8 bits, and one factor for each block of rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.kernels.dtypes import bits, values
from ckptdiff.kernels.memory import matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptdiff.kernels.views import View


def number_dtype(view: View) -> str:
    """Return the dtype of a view's numbers: codes with factors are multiplied in float32."""
    return view.dtype if view.scaling is None else "F32"


def dequantised(codes: NDArray[Any], view: View, at: tuple[int, int]) -> NDArray[Any]:
    """Return the numbers of a tile of a view that starts at this row and column.

    Without factors the tile is returned as it is.
    """
    scaling = view.scaling
    if scaling is None:
        return codes
    rows = (scaling.at[0] + at[0] + np.arange(codes.shape[0])) // scaling.block[0]
    columns = (scaling.at[1] + at[1] + np.arange(codes.shape[1])) // scaling.block[1]
    first, last = (rows[0], columns[0]), (rows[-1] + 1, columns[-1] + 1)
    held = matrix(scaling.factors)[first[0] : last[0], first[1] : last[1]]
    factors = values(held, scaling.factors.dtype).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers: NDArray[Any] = values(codes, view.dtype).astype(np.float32)
        numbers *= factors[np.ix_(rows - first[0], columns - first[1])]
    return numbers


def same_factors(a: View, b: View) -> bool:
    """Return whether both views have factors, and all of them equal, bit by bit."""
    one, other = a.scaling, b.scaling
    if one is None or other is None or a.dtype != b.dtype:
        return False
    if (one.block, one.at, one.factors.shape, one.factors.dtype) != (
        other.block,
        other.at,
        other.factors.shape,
        other.factors.dtype,
    ):
        return False
    return bool((bits(matrix(one.factors)) == bits(matrix(other.factors))).all())
