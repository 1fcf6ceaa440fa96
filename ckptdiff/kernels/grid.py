"""Largest differences by place: the picture of where in a matrix two files differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.kernels.stats import LEVEL_BASE, LEVEL_SHIFT, NO_NUMBER, block_size, grid_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Grid:
    """Block maxima of |a-b| over a whole matrix, filled in rectangle by rectangle."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = grid_shape(shape)
        self._height, self._width = block_size(shape)
        self._maxima = np.zeros(self.shape, np.float32)
        self._no_number = np.zeros(self.shape, bool)

    def absorb(self, distances: NDArray[np.float32], at: tuple[int, int]) -> float:
        """Take in |a-b| of a rectangle whose first element is at `at`; return its maximum.

        Two matrices, stacked, are the even and the odd columns of the rectangle.
        """
        row, col = at
        rows = distances.shape[-2]
        first = min(rows, -row % self._height)  # up to where a block begins
        whole = (rows - first) // self._height
        last = first + whole * self._height
        largest = 0.0
        for start, stop, count in ((0, first, 1), (first, last, whole), (last, rows, 1)):
            if stop == start:
                continue
            part = distances[..., start:stop, :]
            part = part.reshape(*part.shape[:-2], count, -1, part.shape[-1])
            columns = np.maximum.reduce(part, axis=-2)  # (count, columns), or (2, count, half)
            if columns.ndim == 3:
                columns = np.stack((columns[0], columns[1]), axis=-1).reshape(count, -1)
            left = col // self._width
            edges = np.arange(left, (col + columns.shape[1] - 1) // self._width + 1)
            starts = np.maximum(edges * self._width - col, 0)
            blocks = np.maximum.reduceat(columns, starts, axis=1)
            top = (row + start) // self._height
            seen = self._maxima[top : top + count, left : left + len(edges)]
            np.maximum(seen, blocks, out=seen)
            largest = max(largest, float(blocks.max()))
        return largest

    def mark(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> None:
        """Remember places where one side alone is NaN or infinite."""
        self._no_number[rows // self._height, cols // self._width] = True

    def levels(self) -> bytes:
        """Return the level of each block, row by row."""
        levels = (self._maxima.view(np.int32) >> LEVEL_SHIFT) - LEVEL_BASE
        levels = np.where(self._maxima > 0, np.clip(levels, 1, NO_NUMBER - 1), 0)
        return np.where(self._no_number, NO_NUMBER, levels).astype(np.uint8).tobytes()
