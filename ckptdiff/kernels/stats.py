"""What the kernels find out, as plain values that merge and pickle. No numpy."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

GRID = 64  # at most this many blocks down and across
NO_NUMBER = 255  # the level of a block where one side alone is NaN or infinite

# Levels are quarter octaves (four linear steps to a power of two), the upper ten bits of a float32:
# 1 is everything below 2**-48, 254 everything from 1.25 * 2**15 on, 0 is exactly zero.
LEVEL_SHIFT = 21  # bits of a float32 below the two leading bits of its mantissa
LEVEL_BASE = ((127 - 48) << 2) - 1


def level_value(level: int) -> float:
    """Return the smallest |a-b| of a level: 0 for 0, infinity for `NO_NUMBER`."""
    if level in (0, NO_NUMBER):
        return 0.0 if level == 0 else float("inf")
    value: float = struct.unpack("<f", struct.pack("<I", (level + LEVEL_BASE) << LEVEL_SHIFT))[0]
    return value


def block_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of one block of a matrix's grid; the last ones may be cut."""
    rows, cols = (max(1, size) for size in shape)
    return -(-rows // min(GRID, rows)), -(-cols // min(GRID, cols))


def grid_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return how many blocks a matrix's grid has, down and across: at most `GRID` each."""
    height, width = block_size(shape)
    return -(-shape[0] // height), -(-shape[1] // width)


@dataclass(slots=True)
class Stats:
    """What was measured of one tensor, or of a part of it. `Stats()` is the empty part.

    Bits, values and ULP steps are compared in the narrower dtype, after rounding the other side to
    it (to nearest even); |a-b| and the sums are of the values as stored, over elements that are
    finite on both sides, and |a-b| is itself rounded to float32 unless a dtype is wider.
    """

    numel: int = 0
    differing: int = 0  # bits differ, or one side alone is NaN or infinite as stored
    unequal: int = 0  # values differ: not 0.0 against -0.0, not NaN against NaN
    # Elements of `unequal` that no tolerance excuses: NaN or infinite on one side alone, not the
    # same of NaN, Inf and -Inf on both, or finite but beyond the range of the narrower dtype.
    inexcusable: int = 0
    max_abs: float = 0.0
    max_at: tuple[int, int] | None = None  # row and column; of equals the first in row-major order
    sum_abs: float = 0.0
    sum_dd: float = 0.0
    sum_aa: float = 0.0
    sum_bb: float = 0.0
    max_ulp: int = 0
    # Element counts by bit length of the ULP distance (0, 1, 2-3, 4-7, …), without trailing zeros;
    # elements that are not finite on both sides, rounded or not, have no distance.
    histogram: list[int] = field(default_factory=list)
    nan_a: int = 0
    nan_b: int = 0
    inf_a: int = 0
    inf_b: int = 0
    # (index in the call's copies, elements whose bits differ from the original), ascending.
    copies_differ: list[tuple[int, int]] = field(default_factory=list)
    grid: bytes = b""  # the highest level of each block, row by row
    grid_shape: tuple[int, int] = (0, 0)
    normed: bool = True  # False: some part was bit-equal, and its sum_aa and sum_bb were left out

    def merge(self, other: Stats) -> None:
        """Add the figures of another part of the same tensor."""
        self.numel += other.numel
        self.differing += other.differing
        self.unequal += other.unequal
        self.inexcusable += other.inexcusable
        if other.max_at is not None:
            self.peak(other.max_abs, other.max_at)
        self.sum_abs += other.sum_abs
        self.sum_dd += other.sum_dd
        self.sum_aa += other.sum_aa
        self.sum_bb += other.sum_bb
        self.max_ulp = max(self.max_ulp, other.max_ulp)
        self.count(other.histogram)
        self.nan_a += other.nan_a
        self.nan_b += other.nan_b
        self.inf_a += other.inf_a
        self.inf_b += other.inf_b
        drifted = dict(self.copies_differ)
        for index, count in other.copies_differ:
            drifted[index] = drifted.get(index, 0) + count
        self.copies_differ = sorted(drifted.items())
        self.normed = self.normed and other.normed
        if not self.grid:
            self.grid, self.grid_shape = other.grid, other.grid_shape
        elif other.grid:
            self.grid = bytes(max(pair) for pair in zip(self.grid, other.grid, strict=True))

    def peak(self, value: float, at: tuple[int, int]) -> None:
        """Take a difference as the largest, if it is; of equal ones the first place counts."""
        if value > self.max_abs or (value == self.max_abs and value and at < (self.max_at or at)):
            self.max_abs, self.max_at = value, at

    def count(self, histogram: list[int]) -> None:
        """Add counts by bit length of the ULP distance."""
        self.histogram += [0] * (len(histogram) - len(self.histogram))
        for bits, number in enumerate(histogram):
            self.histogram[bits] += number
        while self.histogram and not self.histogram[-1]:
            self.histogram.pop()


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor by itself. The figures are of its finite elements, NaN if it has none."""

    numel: int
    min: float
    max: float
    mean: float
    std: float  # of the population
    rms: float
    zeros: int
    nan: int
    inf: int
    histogram: tuple[int, ...]  # equal bins from `min` to `max`; empty without finite elements
    magnitudes: tuple[tuple[int, int], ...]  # (floor(log2|x|), count) of the non-zero, ascending


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a tensor, row by row; None where no view lies."""

    values: tuple[tuple[float | None, ...], ...]
    bits: tuple[tuple[int | None, ...], ...]  # as stored, unsigned
