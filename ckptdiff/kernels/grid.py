"""The heat map of a matrix: the largest |a-b| of each of its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.kernels.stats import LEVEL_BASE, LEVEL_SHIFT, NO_NUMBER, block_size, grid_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HeatGrid:
    """Block maxima of |a-b| over a matrix of (rows, columns), added rectangle by rectangle.

    `shape` is the number of blocks, down and across: at most `stats.GRID` each.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = grid_shape(shape)
        self._height, self._width = block_size(shape)
        # As bit patterns: those of floats from 0 on have the order of their values, and integers
        # compare faster, as there is no NaN to look for.
        self._maxima = np.zeros(self.shape, np.int32)
        self._no_number = np.zeros(self.shape, bool)
        self._touched = False
        self._starts: dict[tuple[int, int, int], NDArray[np.intp]] = {}

    def absorb(self, distances: NDArray[np.float32], at: tuple[int, int]) -> float:
        """Add |a-b| of a rectangle whose first element is at `at`, and return the maximum of it.

        `distances` is (rows, columns), or (2, rows, columns / 2): even columns, then odd ones.
        """
        self._touched = True
        patterns = distances.view(np.int32)
        row, col = at
        rows, height = distances.shape[-2], self._height
        top = row // height
        first = min(rows, -row % height)  # rows before the first whole block
        last = rows - (rows - first) % height
        count = (row + rows - 1) // height - top + 1
        # Shape: (blocks down, columns), or (2, blocks down, half of the columns).
        columns = np.empty((*distances.shape[:-2], count, distances.shape[-1]), np.int32)
        done = 0
        for start, stop, size in ((0, first, first), (first, last, height), (last, rows, rows)):
            if stop > start:
                part = patterns[..., start:stop, :]
                blocks = -(-(stop - start) // size)
                part = part.reshape(*part.shape[:-2], blocks, -1, part.shape[-1])
                out = columns[..., done : done + blocks, :]
                np.maximum.reduce(part, axis=-2, out=out)
                done += blocks
        if columns.ndim == 3:
            if col % 2 == 0 and self._width % 2 == 0:
                maxima = self._across(
                    np.maximum(columns[0], columns[1]), col // 2, self._width // 2
                )
            else:
                columns = np.stack((columns[0], columns[1]), axis=-1).reshape(count, -1)
                maxima = self._across(columns, col, self._width)
        else:
            maxima = self._across(columns, col, self._width)
        left = col // self._width
        seen = self._maxima[top : top + count, left : left + maxima.shape[1]]
        np.maximum(seen, maxima, out=seen)
        return float(maxima.max().view(np.float32))

    def _across(self, columns: NDArray[np.int32], col: int, width: int) -> NDArray[np.int32]:
        """Return (blocks down, blocks across): the maxima of blocks that are `width` columns wide.

        `columns` is (blocks down, columns), and starts at column `col` of the matrix.
        """
        key = (columns.shape[1], col, width)
        starts = self._starts.get(key)
        if starts is None:
            edges = np.arange(col // width, (col + columns.shape[1] - 1) // width + 1)
            starts = self._starts[key] = np.maximum(edges * width - col, 0)
        return np.maximum.reduceat(columns, starts, axis=1)

    def mark(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> None:
        """Mark the blocks of these elements, where one side alone is NaN or infinite."""
        self._touched = True
        self._no_number[rows // self._height, cols // self._width] = True

    def levels(self) -> bytes:
        """Return the level of each block, a byte each, row by row (see `stats.level_value`)."""
        if not self._touched:
            return bytes(self._maxima.size)
        levels = (self._maxima >> LEVEL_SHIFT) - LEVEL_BASE
        levels = np.where(self._maxima > 0, np.clip(levels, 1, NO_NUMBER - 1), 0)
        return np.where(self._no_number, NO_NUMBER, levels).astype(np.uint8).tobytes()
