"""One tensor by itself: its distribution, and the numbers in a window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.dtypes import bits, values
from ckptdiff.kernels.exact import tiles
from ckptdiff.kernels.memory import RAW, matrix, release
from ckptdiff.kernels.scales import dequantised, number_dtype
from ckptdiff.kernels.stats import TensorSummary, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptdiff.kernels.views import View

BINS = 32  # of the histogram
TILE = 1 << 16  # elements of one tile
PART_BYTES = 8 << 20  # of a view that are mapped, or read, at once


def _weighted(views: Sequence[View]) -> Iterator[tuple[NDArray[np.float64], NDArray[Any]]]:
    """Yield values, flat, and how often each occurs: an array as long, or of one element for all.

    A dtype of at most 16 bits has so few codes that counting them replaces a pass over the values.
    """
    for view in views:
        size = ITEMSIZE[view.dtype]
        is_counted = size <= 2 and view.scaling is None
        codes = np.arange(1 << (8 * size)).astype(f"<u{size}") if is_counted else None
        counts = np.zeros(0 if codes is None else len(codes), np.int64)
        for part in _parts(view):
            array = matrix(part)
            for row, col, tile in tiles(array.shape, TILE):
                elements = array[tile].reshape(-1)
                if codes is None:
                    numbers = dequantised(array[tile], part, (row, col)).reshape(-1)
                    yield values(numbers, number_dtype(view)), np.ones(1, np.int64)
                else:
                    counts += np.bincount(elements.view(f"<u{size}"), minlength=len(codes))
            release(part)
        if codes is not None:
            occurring = np.flatnonzero(counts)
            raw = codes[occurring].view(RAW[view.dtype])
            yield values(raw, view.dtype), counts[occurring]


def _parts(view: View) -> Iterator[View]:
    """Yield the rows of a view in parts of some megabytes, if its rows lie one after the other."""
    rows, columns = view.shape
    step = max(1, PART_BYTES // max(1, view.stride[0] * ITEMSIZE[view.dtype]))
    if view.stride[0] < columns:
        step = max(1, rows)
    for start in range(0, rows, step):
        yield view.crop((start, 0), (min(step, rows - start), columns))


def summarise_tensor(views: Sequence[View]) -> TensorSummary:
    """Return the distribution of the tensor that these views make up, in two passes over it.

    Raises CorruptFile and UnreadableFile.
    """
    numel = nan = inf = zeros = 0
    total = squares = 0.0
    least, most = math.inf, -math.inf
    magnitudes: dict[int, int] = {}
    for numbers, weights in _weighted(views):
        weights = np.broadcast_to(weights, numbers.shape)
        finite = np.isfinite(numbers)
        numel += int(weights.sum())
        nan += int(weights[np.isnan(numbers)].sum())
        inf += int(weights[np.isinf(numbers)].sum())
        numbers, weights = numbers[finite], weights[finite]
        if not len(numbers):
            continue
        zeros += int(weights[numbers == 0].sum())
        least, most = min(least, float(numbers.min())), max(most, float(numbers.max()))
        with np.errstate(over="ignore"):
            total += float((numbers * weights).sum())
            squares += float((numbers * numbers * weights).sum())
        _, exponents = np.frexp(numbers[numbers != 0])
        if len(exponents):
            low = int(exponents.min())
            counts = np.bincount(exponents - low, weights[numbers != 0])
            for step in np.flatnonzero(counts).tolist():
                power = low + step - 1
                magnitudes[power] = magnitudes.get(power, 0) + int(counts[step])
    count = numel - nan - inf
    mean = total / count if count else math.nan
    deviations = 0.0
    histogram = np.zeros(BINS, np.int64)
    for numbers, weights in _weighted(views) if count else ():
        weights = np.broadcast_to(weights, numbers.shape)
        finite = np.isfinite(numbers)
        numbers, weights = numbers[finite], weights[finite]
        with np.errstate(over="ignore"):
            deviations += float(((numbers - mean) ** 2 * weights).sum())
        # Halved first: the whole range may overflow a float64.
        width = most / 2 - least / 2
        position = (numbers / 2 - least / 2) / width * BINS if width else np.zeros(len(numbers))
        bins = np.minimum(position.astype(np.int64), BINS - 1)
        histogram += np.bincount(bins, weights, minlength=BINS).astype(np.int64)
    return TensorSummary(
        numel=numel,
        min=least if count else math.nan,
        max=most if count else math.nan,
        mean=mean,
        std=math.sqrt(deviations / count) if count else math.nan,
        rms=math.sqrt(squares / count) if count else math.nan,
        zeros=zeros,
        nan=nan,
        inf=inf,
        histogram=tuple(histogram.tolist()) if count else (),
        magnitudes=tuple(sorted(magnitudes.items())),
    )


def window(views: Sequence[tuple[tuple[int, int], View]], rows: range, cols: range) -> Window:
    """Return the numbers of some rows and columns of the matrix that these views make up.

    Each view comes with the row and column of its first element in the matrix. A quantised view
    gives the bits of the float32 it stands for. Raises CorruptFile and UnreadableFile.
    """
    numbers: list[list[float | None]] = [[None] * len(cols) for _ in rows]
    patterns: list[list[int | None]] = [[None] * len(cols) for _ in rows]
    for (top, left), view in views:
        height, width = view.shape
        down = [i for i, row in enumerate(rows) if top <= row < top + height]
        across = [j for j, col in enumerate(cols) if left <= col < left + width]
        if not down or not across:
            continue
        at = (rows[down[0]] - top, cols[across[0]] - left)
        part = view.crop(
            at, (rows[down[-1]] - rows[down[0]] + 1, cols[across[-1]] - cols[across[0]] + 1)
        )
        picked = np.ix_(
            [rows[i] - rows[down[0]] for i in down], [cols[j] - cols[across[0]] for j in across]
        )
        raw = matrix(part)[picked]
        if view.scaling is not None:
            raw = dequantised(raw, view, at)
        for i, line, codes in zip(
            down, values(raw, number_dtype(view)).tolist(), bits(raw).tolist(), strict=True
        ):
            for j, value, code in zip(across, line, codes, strict=True):
                numbers[i][j], patterns[i][j] = value, code
    return Window(tuple(map(tuple, numbers)), tuple(map(tuple, patterns)))
