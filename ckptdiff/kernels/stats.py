"""What the kernels measure, as plain values that merge and pickle. No numpy."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

GRID = 64  # blocks of a heat map, down and across, at most
NO_NUMBER = 255  # the level of a block where one side alone is NaN or infinite

# A level is a range of |a-b|. Each power of two has four, of equal width, so a level is the upper
# ten bits of a float32: 0 is exactly zero, 1 all below 2**-48, 254 all from 1.25 * 2**15 on.
LEVEL_SHIFT = 21  # bits of a float32 below the two leading bits of its mantissa
# The upper ten bits of the float32 that level 0 would start at.
LEVEL_BASE = ((127 - 48) << 2) - 1


def level_value(level: int) -> float:
    """Return the smallest |a-b| of a level: 0 for level 0, infinity for `NO_NUMBER`."""
    if level in (0, NO_NUMBER):
        return 0.0 if level == 0 else float("inf")
    value: float = struct.unpack("<f", struct.pack("<I", (level + LEVEL_BASE) << LEVEL_SHIFT))[0]
    return value


def block_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a block of a matrix's heat map. The last may be smaller."""
    rows, cols = (max(1, size) for size in shape)
    return -(-rows // min(GRID, rows)), -(-cols // min(GRID, cols))


def grid_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return how many blocks a matrix's heat map has, down and across: at most `GRID` each."""
    height, width = block_size(shape)
    return -(-shape[0] // height), -(-shape[1] // width)


@dataclass(slots=True)
class Stats:
    """What was measured of one tensor, or of a part of it. `Stats()` is the empty part.

    Bits, values and ULP distances are compared in the narrower dtype, after rounding the other side
    to it (to nearest, ties to even). |a-b| and the sums are in the unit of the weights, of the
    values as stored, over elements that are finite on both sides. |a-b| is itself rounded to
    float32 unless a dtype is wider.
    """

    numel: int = 0  # elements
    differing: int = 0  # elements: bits differ, or one side alone is NaN or infinite as stored
    unequal: int = 0  # elements: values differ, 0.0 and -0.0 being equal, and NaN and NaN
    # Elements of `unequal` that no tolerance allows: NaN or infinite on one side alone, different
    # ones of NaN, Inf and -Inf, or finite but out of range of the narrower dtype.
    inexcusable: int = 0
    # Elements of `unequal` that no order of adding an adapter's terms gives: all, without one.
    beyond: int = 0
    max_abs: float = 0.0  # largest |a-b|
    max_at: tuple[int, int] | None = None  # its row and column; of equals the first, row-major
    sum_abs: float = 0.0  # sum of |a-b|
    sum_dd: float = 0.0  # sum of (a-b)²
    sum_aa: float = 0.0  # sum of a²
    sum_bb: float = 0.0  # sum of b²
    max_ulp: int = 0  # largest distance, in ULP of the narrower dtype
    # Element counts by bit length of the ULP distance (0, 1, 2-3, 4-7, …), without trailing zeros.
    # Elements that are not finite on both sides, rounded or not, have no distance.
    histogram: list[int] = field(default_factory=list)
    nan_a: int = 0  # elements, as the next three
    nan_b: int = 0
    inf_a: int = 0
    inf_b: int = 0
    # (index in the call's copies, elements whose bits differ from the original), ascending.
    copies_differ: list[tuple[int, int]] = field(default_factory=list)
    grid: bytes = b""  # the highest level of each block, a byte each, row by row
    grid_shape: tuple[int, int] = (0, 0)  # blocks down and across
    normed: bool = True  # False: some part was bit-equal, and its sum_aa and sum_bb were left out

    def merge(self, other: Stats) -> None:
        """Add the figures of another part of the same tensor."""
        self.numel += other.numel
        self.differing += other.differing
        self.unequal += other.unequal
        self.inexcusable += other.inexcusable
        self.beyond += other.beyond
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
        """Note a |a-b| and its place if it is the largest; of equal ones the first place counts."""
        if value > self.max_abs or (value == self.max_abs and value and at < (self.max_at or at)):
            self.max_abs, self.max_at = value, at

    def count(self, histogram: list[int]) -> None:
        """Add element counts by bit length of the ULP distance."""
        self.histogram += [0] * (len(histogram) - len(self.histogram))
        for bits, number in enumerate(histogram):
            self.histogram[bits] += number
        while self.histogram and not self.histogram[-1]:
            self.histogram.pop()


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor by itself. Its figures are of the finite elements; NaN if there are none."""

    numel: int  # elements, all of them
    min: float
    max: float
    mean: float
    std: float  # of the population
    rms: float  # root mean square
    zeros: int  # elements, as the next two
    nan: int
    inf: int
    # Element counts of equal bins from `min` to `max`; empty without finite elements.
    histogram: tuple[int, ...]
    magnitudes: tuple[tuple[int, int], ...]  # (floor(log2|x|), count) of the non-zero, ascending


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a matrix, row by row; None for an element that no view holds."""

    values: tuple[tuple[float | None, ...], ...]
    bits: tuple[tuple[int | None, ...], ...]  # as stored, unsigned
