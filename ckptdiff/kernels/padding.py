"""Describe what the rows of vocabulary padding hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.kernels.memory import matrix, release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.views import View

ROWS = 256  # compared at once


def describe_padding(rows: Sequence[View], last_row: View) -> str:
    """Return, in words, whether the rows are zeros, copies of the last row before them, or neither.

    Rows are (rows, columns), the last row (1, columns). Megatron's converter copies the last row;
    training starts from zeros or from random values. Raises CorruptFile and UnreadableFile.
    """
    last = matrix(last_row).copy()
    zeros = repeats = True
    for view in rows:
        values = matrix(view)
        for start in range(0, len(values), ROWS):
            block = values[start : start + ROWS]
            zeros = zeros and not block.any()
            repeats = repeats and bool((block == last).all())
            if not (zeros or repeats):
                break
        release(view)
    if zeros:
        return "zeros"
    return "copies of the last row" if repeats else "other values"
