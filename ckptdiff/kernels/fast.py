"""Measure a rectangle in float32: BF16, F16 and F32 in any mix, finite, of ordinary size.

Each step is one pass of numpy over a rectangle that stays in the cache. One that float32 cannot
measure (NaN, infinity, squares out of range) is noticed before any figure is added to the
statistics, and left to `exact`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import narrower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptdiff.kernels.grid import HeatGrid
    from ckptdiff.kernels.stats import Stats

DTYPES = frozenset({"BF16", "F16", "F32"})
# Of a rectangle, at most. Longer passes leave the cache; in shorter ones numpy calls cost more.
ELEMENTS = 1 << 18

# Elements of one float32 dot product. Its relative error is about 1e-7; longer sums are added up in
# float64. It is also too short for BLAS to start threads.
_DOT = 1024
# Out of this range a float32 sum of squares may have lost small terms, or overflowed.
_LEAST, _MOST = 1e-24, 1e37
# |a-b| from which the steps between codes of opposite sign are counted separately. In each of these
# formats the code 0x4000… is 2.0, so only a number of 2.0 or more can be half the range of codes
# away from zero, or from a number of its sign. A little less, as one side may be rounded up.
_FAR = 1.9
_SPARSE = 32  # below one element in so many, collecting them is faster than a pass over all


class _Scratch(threading.local):
    """Buffers for one rectangle, allocated once per thread."""

    def __init__(self) -> None:
        self.a = np.empty(ELEMENTS, np.float32)
        self.b = np.empty(ELEMENTS, np.float32)
        self.steps = np.empty(ELEMENTS, np.int32)
        self.codes = np.empty(ELEMENTS, np.int32)
        self.flags = np.empty(ELEMENTS + 8, np.bool_)
        self.ones = np.ones(_DOT, np.float32)


_scratch = _Scratch()


def measure(
    a: NDArray[Any],
    b: NDArray[Any],
    dtypes: tuple[str, str],
    at: tuple[int, int],
    stats: Stats,
    grid: HeatGrid,
) -> bool:
    """Add all figures of a rectangle, and return True; add none and return False if `exact` must.

    `a` and `b` have the shape (rows, columns), at most `ELEMENTS` elements and the numpy dtypes
    `RAW[dtypes[0]]` and `RAW[dtypes[1]]`. `at` is the first element's row and column.
    """
    rows, cols = a.shape
    size = rows * cols
    same = dtypes[0] == dtypes[1]
    halves = same and dtypes[0] != "F32" and _pairs(a) and _pairs(b)
    widened = _widened_pairs if halves else _widened
    x = widened(a, dtypes[0], _scratch.a[:size])
    flat_x = x.reshape(-1)
    aa = _sum_of_squares(flat_x)
    y = widened(b, dtypes[1], _scratch.b[:size])
    flat_y = y.reshape(-1)
    bb = _sum_of_squares(flat_y)

    narrow = narrower(*dtypes)
    if not (
        _in_range(aa, a, dtypes[0], narrow)
        and _in_range(bb, b, dtypes[1], narrow)
        and _is_reliable(aa, flat_x)
        and _is_reliable(bb, flat_y)
    ):
        return False
    if same:
        word = np.int32 if narrow == "F32" else np.int16
        code_a, code_b = a.view(word), b.view(word)
    else:
        code_a = _codes(a, x, dtypes[0], narrow)
        code_b = _codes(b, y, dtypes[1], narrow)
    deltas = _scratch.b[:size]
    with np.errstate(over="ignore"):
        np.subtract(x, y, out=deltas.reshape(x.shape))
    dd = _sum_of_squares(deltas)
    if not _is_reliable(dd, deltas):
        return False

    np.abs(deltas, out=deltas)
    stats.sum_aa += aa
    stats.sum_bb += bb
    stats.sum_dd += dd
    stats.sum_abs += _sum(deltas)
    largest_delta = grid.absorb(deltas.reshape(x.shape), at)
    _peak(deltas.reshape(x.shape), largest_delta, at, stats)
    _count_steps(code_a, code_b, largest_delta, stats)
    return True


def sum_of_squares(a: NDArray[Any], dtype: str) -> float | None:
    """Return the sum of squares of at most `ELEMENTS` elements; None where `exact` must do it."""
    x = _widened(a, dtype, _scratch.a[: a.size]).reshape(-1)
    total = _sum_of_squares(x)
    return total if _in_range(total, a, dtype, dtype) and _is_reliable(total, x) else None


def _pairs(a: NDArray[Any]) -> bool:
    """Return whether two neighbours of a row, of 16 bits each, can be read as one aligned word."""
    return a.shape[1] % 2 == 0 and a.strides[1] == 2 and a.view(np.uint32).flags.aligned


def _widened_pairs(a: NDArray[Any], dtype: str, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values as float32 in `out`, (2, rows, columns / 2): even columns, then odd ones.

    Two columns are read as one word, which takes half as many steps.
    """
    out = out.reshape(2, a.shape[0], -1)
    if dtype == "BF16":
        words, wide = a.view(np.uint32), out.view(np.uint32)
        np.left_shift(words, 16, out=wide[0])
        np.bitwise_and(words, 0xFFFF0000, out=wide[1])
    else:
        signed, wide_signed = a.view(np.int32), out.view(np.int32)
        np.left_shift(signed, 16, out=wide_signed[0])
        np.right_shift(wide_signed[0], 3, out=wide_signed[0])
        np.right_shift(signed, 3, out=wide_signed[1])
        _rebias(out)
    return out


def _rebias(out: NDArray[np.float32]) -> None:
    # An F16 whose sign is spread over three more bits is a float32 with a far too small exponent.
    # The product is exact, for subnormals too. Infinity and NaN become 65536 and more.
    wide = out.view(np.uint32)
    np.bitwise_and(wide, 0x8FFFE000, out=wide)
    np.multiply(out, np.float32(2.0**112), out=out)


def _widened(a: NDArray[Any], dtype: str, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values as float32, (rows, columns), in `out`; an aligned F32 as it is."""
    if dtype == "F32":
        if a.flags.c_contiguous and a.flags.aligned:
            return a
        out = out.reshape(a.shape)
        np.copyto(out, a)
        return out
    out = out.reshape(a.shape)
    if dtype == "BF16":
        wide = out.view(np.uint32)
        np.copyto(wide, a)
        np.left_shift(wide, 16, out=wide)
    else:
        signed = out.view(np.int32)
        np.copyto(signed, a.view(np.int16))
        np.left_shift(signed, 13, out=signed)
        _rebias(out)
    return out


def _sum_of_squares(x: NDArray[np.float32]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(float(np.vecdot(x, x).sum(dtype=np.float64)) for x in _lines(x))


def _sum(x: NDArray[np.float32]) -> float:
    ones = _scratch.ones
    return sum(float(np.vecdot(x, ones[: x.shape[1]]).sum(dtype=np.float64)) for x in _lines(x))


def _lines(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield a vector as a matrix with rows of `_DOT` elements, then the remainder as one row."""
    whole = len(x) // _DOT * _DOT
    if whole:
        yield x[:whole].reshape(-1, _DOT)
    if whole < len(x):
        yield x[whole:].reshape(1, -1)


def _is_reliable(squares: float, x: NDArray[np.float32]) -> bool:
    """Return whether a float32 sum of the squares of x lost nothing and did not overflow."""
    return _LEAST < squares < _MOST or (squares == 0 and not x.any())


def _in_range(squares: float, a: NDArray[Any], dtype: str, narrow: str) -> bool:
    """Return whether all elements are finite and stay so in the narrower dtype.

    A finite sum of squares shows it, unless a dtype is F16: an infinite F16 is a finite number once
    widened, and a number out of F16's range has an ordinary square.
    """
    if "F16" not in (dtype, narrow) or squares < 65504.0**2:
        return True
    if dtype == "F16":
        return not bool((a & 0x7C00 == 0x7C00).any())
    return bool(np.abs(a).max() < 65520)


def _codes(a: NDArray[Any], x: NDArray[np.float32], dtype: str, narrow: str) -> NDArray[np.int16]:
    """Return the codes in the narrower dtype, of 16 bits; `x` has the values as float32.

    All have the shape (rows, columns).
    """
    if dtype == narrow:
        return a.view(np.int16)
    bits = x.view(np.uint32)
    size = bits.size
    # The low half of each 32-bit word of this buffer becomes a code.
    code = _scratch.codes.view(np.uint32)[:size].reshape(bits.shape)
    if narrow == "BF16":
        np.right_shift(bits, 16, out=code)
        np.bitwise_and(code, 1, out=code)
        np.add(code, 0x7FFF, out=code)
        np.add(code, bits, out=code)
        np.right_shift(code, 16, out=code)
        return code.view(np.int16)[:, ::2]
    magnitude = _scratch.steps.view(np.uint32)[:size].reshape(bits.shape)
    np.bitwise_and(bits, 0x7FFFFFFF, out=magnitude)
    np.right_shift(magnitude, 13, out=code)
    np.bitwise_and(code, 1, out=code)
    np.add(code, magnitude, out=code)
    np.subtract(code, (112 << 23) - 0xFFF, out=code)
    np.right_shift(code, 13, out=code)
    flags = _scratch.flags[:size].reshape(bits.shape)
    np.less(magnitude, 113 << 23, out=flags)
    small = _indices(flags.reshape(-1))
    if len(small):
        # Between 0.5 and 1 a float32 has the steps of a subnormal F16: the addition rounds to them.
        halves = magnitude.reshape(-1)[small].view(np.float32) + np.float32(0.5)
        code.reshape(-1)[small] = halves.view(np.uint32) - np.float32(0.5).view(np.uint32)
    np.right_shift(bits, 16, out=magnitude)
    np.bitwise_and(magnitude, 0x8000, out=magnitude)
    np.bitwise_or(code, magnitude, out=code)
    return code.view(np.int16)[:, ::2]


def _peak(deltas: NDArray[np.float32], largest: float, at: tuple[int, int], stats: Stats) -> None:
    """Note the largest |a-b| and its place, if no larger one is known."""
    if largest < stats.max_abs or not largest:
        return
    if largest == stats.max_abs and stats.max_at is not None and stats.max_at < at:
        return
    if deltas.ndim == 2:
        row, col = divmod(int(deltas.argmax()), deltas.shape[1])
        stats.peak(largest, (at[0] + row, at[1] + col))
        return
    for parity, half in enumerate(deltas):
        row, col = divmod(int(half.argmax()), half.shape[1])
        stats.peak(float(half[row, col]), (at[0] + row, at[1] + 2 * col + parity))


def _count_steps(
    code_a: NDArray[Any], code_b: NDArray[Any], max_delta: float, stats: Stats
) -> None:
    """Count differing elements and ULP distances, given the codes in the narrower dtype."""
    size = code_a.size
    word = code_a.dtype
    signed = _scratch.steps.view(word)[:size]
    np.subtract(code_a, code_b, out=signed.reshape(code_a.shape))
    differing = int(np.count_nonzero(signed))
    if not differing:
        stats.count([size])
        return
    stats.differing += differing
    np.abs(signed, out=signed)
    steps: NDArray[Any] = signed.view(np.uint16 if word.itemsize == 2 else np.uint32)
    flags = _scratch.flags[:size]
    largest = int(steps.max())
    # The sign bit is half the range of the subtraction. So elements of opposite sign give more than
    # a quarter of the range, and no others do, as long as no |a-b| is large.
    quarter = 1 << (8 * word.itemsize - 2)
    if max_delta >= _FAR or (word.itemsize == 4 and largest > quarter):
        signs = _scratch.a.view(word)[:size].reshape(code_a.shape)
        np.bitwise_xor(code_a, code_b, out=signs)
        np.less(signs, 0, out=flags.reshape(code_a.shape))
        opposite = _indices(flags)
        steps[opposite] = _across_zero(code_a, code_b, opposite, steps.dtype)
        differing = int(np.count_nonzero(steps))
        largest = int(steps.max())
        quarter *= 4
    counts = [size - differing]
    if word.itemsize == 4 and largest < 1 << 31:
        stats.unequal += differing
        stats.max_ulp = max(stats.max_ulp, largest)
        stats.count(counts + _bit_lengths(steps, largest))
        return

    # Count the steps below 2, 4, 8, …, one pass per bound, until few are left.
    beyond, bound = differing, 2
    while bound <= min(largest, quarter):
        np.greater_equal(steps, bound, out=flags)
        before, beyond = beyond, int(np.count_nonzero(flags))
        counts.append(before - beyond)
        bound *= 2
        if beyond * _SPARSE < size:
            break
    if bound <= largest or largest > quarter:
        left = _indices(flags)
        tail: NDArray[Any] = steps[left]
        if largest > quarter:
            opposite = (tail > quarter).nonzero()[0]
            tail[opposite] = _across_zero(code_a, code_b, left[opposite], steps.dtype)
            largest = int(tail.max())
        bits = np.bincount(np.frexp(tail.astype(np.float64))[1]).tolist()
        stats.count(bits)
        stats.unequal -= bits[0]
    else:
        counts.append(beyond)
    stats.unequal += differing
    stats.max_ulp = max(stats.max_ulp, largest)
    stats.count(counts)


def _bit_lengths(steps: NDArray[np.uint32], largest: int) -> list[int]:
    """Return how many of the steps, all below 2**31, have 1, 2, 3, … significant bits."""
    size = len(steps)
    # The exponent of a float32 shows it, if no run of ones can round up to the next power of two.
    isolated = _scratch.codes[:size]
    np.right_shift(steps, 1, out=isolated.view(np.uint32))
    np.invert(isolated, out=isolated)
    np.bitwise_and(isolated, steps.view(np.int32), out=isolated)
    exponents = _scratch.a.view(np.int32)[:size]
    np.copyto(exponents.view(np.float32), isolated, casting="unsafe")
    np.right_shift(exponents, 23, out=exponents)
    short = _scratch.codes.view(np.uint8)[:size]
    np.copyto(short, exponents, casting="unsafe")
    flags = _scratch.flags[:size]
    counts = []
    for bits in range(1, largest.bit_length() + 1):
        np.equal(short, 126 + bits, out=flags)
        counts.append(int(np.count_nonzero(flags)))
    return counts


def _indices(flags: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the indices of the flags that are set, which should be few.

    `flags` must be the start of the scratch buffer.
    """
    size = len(flags)
    padded = _scratch.flags[: -(-size // 8) * 8]
    padded[size:] = False
    eights = padded.view(np.uint64)
    words = (eights != 0).nonzero()[0]
    within = eights[words].view(np.bool_).nonzero()[0]
    places: NDArray[np.intp] = (words[within >> 3] << 3) + (within & 7)
    return places


def _across_zero(
    code_a: NDArray[Any], code_b: NDArray[Any], places: NDArray[np.intp], word: np.dtype[Any]
) -> NDArray[Any]:
    """Return the ULP between codes of opposite sign: one down to zero, and the other up from it."""
    where = np.divmod(places, code_a.shape[1])
    magnitude = (1 << (8 * word.itemsize - 1)) - 1
    down, up = code_a[where] & magnitude, code_b[where] & magnitude
    steps: NDArray[Any] = down.view(word) + up.view(word)
    return steps
