"""ULP distances between two windows, and where in a rectangle two tensors differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.dtypes import INTEGERS, ITEMSIZE, narrower
from ckptdiff.kernels import dtypes
from ckptdiff.kernels.dtypes import values
from ckptdiff.kernels.memory import RAW, matrix
from ckptdiff.kernels.scales import dequantised, number_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.stats import Window
    from ckptdiff.kernels.views import View

    Placed = tuple[tuple[int, int], View]  # row and column of its first element in the matrix


def ulps(a: Window, b: Window, dtype_a: str, dtype_b: str) -> tuple[tuple[int | None, ...], ...]:
    """Return the ULP distance of each pair of elements, as the comparison counts it.

    Rows and columns are those of the windows, which have one shape. Integers differ by |a-b|. None
    where a side has no element there, or is NaN or infinite.
    """
    known_pairs = np.array(
        [
            [x is not None and y is not None for x, y in zip(*pair, strict=True)]
            for pair in zip(a.bits, b.bits, strict=True)
        ]
    )
    raws = [
        np.array([[code or 0 for code in row] for row in side.bits], f"<u{ITEMSIZE[dtype]}").view(
            RAW[dtype]
        )
        for side, dtype in ((a, dtype_a), (b, dtype_b))
    ]
    if INTEGERS.issuperset((dtype_a, dtype_b)):
        steps = dtypes.integer_distance(*raws)
    else:
        narrow = narrower(dtype_a, dtype_b)
        x, y = (
            dtypes.rounded(raw, dtype, narrow)
            for raw, dtype in zip(raws, (dtype_a, dtype_b), strict=True)
        )
        steps = dtypes.ulp_distance(x, y, narrow)
        known_pairs &= dtypes.finite(x, narrow) & dtypes.finite(y, narrow)
    return tuple(
        tuple(int(step) if known else None for step, known in zip(*pair, strict=True))
        for pair in zip(steps.tolist(), known_pairs.tolist(), strict=True)
    )


def largest_difference(
    a: Sequence[Placed], b: Sequence[Placed], rows: range, columns: range
) -> tuple[int, int]:
    """Return row and column, in the matrix, of the largest |a-b| within `rows` and `columns`.

    NaN or infinity on one side alone counts as the largest. Raises CorruptFile and UnreadableFile.
    """
    sides = []
    for placed in (a, b):
        block = np.zeros((len(rows), len(columns)))
        for (top, left), view in placed:
            first, last = max(rows.start, top), min(rows.stop, top + view.shape[0])
            begin, end = max(columns.start, left), min(columns.stop, left + view.shape[1])
            if first >= last or begin >= end:
                continue
            part = view.crop((first - top, begin - left), (last - first, end - begin))
            raw = matrix(part)
            raw = dequantised(raw, view, (first - top, begin - left))
            inside = np.s_[
                first - rows.start : last - rows.start, begin - columns.start : end - columns.start
            ]
            block[inside] = values(raw, number_dtype(view))
        sides.append(block)
    x, y = sides
    with np.errstate(invalid="ignore"):
        distances = np.abs(x - y)
    one_sided = np.isfinite(x) != np.isfinite(y)
    distances = np.where(one_sided, np.inf, np.where(np.isnan(distances), 0.0, distances))
    row, column = divmod(int(distances.argmax()), len(columns))
    return rows.start + row, columns.start + column
