"""Bit patterns of every dtype: their exact values, and their distance in ULP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS, INTEGERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The difference of two of their numbers may need more than the 24 bits of a float32.
WIDE = frozenset({"F64", "U32", "I32", "U64", "I64"})


def _table(dtype: str) -> NDArray[np.float64]:
    """Return the value of each code of an 8-bit format: shape (256,)."""
    code = np.arange(256)
    if dtype == "F8_E8M0":
        return np.where(code == 255, np.nan, np.exp2(code - 127.0))
    form = FLOATS[dtype]
    fraction_bits = form.precision - 1
    magnitude = code & 0x7F
    exponent = magnitude >> fraction_bits
    fraction = magnitude & ((1 << fraction_bits) - 1)
    significand = np.where(exponent > 0, fraction + (1 << fraction_bits), fraction)
    value = np.ldexp(
        significand.astype(np.float64),
        np.maximum(exponent, 1) - 1 + form.min_exponent - fraction_bits,
    )
    value[magnitude > form.overflow] = np.nan
    value[magnitude == form.overflow] = np.nan if dtype == "F8_E4M3" else np.inf
    signed: NDArray[np.float64] = np.where(code < 128, value, -value)
    return signed


_TABLES = {dtype: _table(dtype) for dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0")}
# Its codes have no bytes of their own: they are numbers from 0 to 15 here.
_TABLES["F4"] = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def values(raw: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return the numbers that elements stand for: exact, except integers beyond 2**53.

    `raw` has the numpy dtype `RAW[dtype]`; the result has its shape.
    """
    if dtype in _TABLES:
        looked_up: NDArray[np.float64] = _TABLES[dtype][raw]
        return looked_up
    if dtype == "BF16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "F16":
        raw = raw.view(np.float16)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return raw.astype(np.float64)


def bits(raw: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the elements' bit patterns, as stored, each in a uint64. The shape is kept."""
    return raw.view(f"<u{raw.itemsize}").astype(np.uint64)


def _rounding_once(raw: NDArray[Any]) -> NDArray[np.float64]:
    """Return integers as float64 so that rounding them again, to fewer bits, is still right.

    Beyond 2**53 the low bits are folded into one sticky bit, which breaks ties the right way.
    """
    if raw.itemsize < 8:
        return raw.astype(np.float64)
    negative = raw < 0
    magnitude = raw.astype(np.uint64)
    magnitude = np.where(negative, ~magnitude + np.uint64(1), magnitude)
    low = np.uint64(0x7FF)
    sticky = np.where(magnitude & low, np.uint64(0x800), np.uint64(0))
    folded = np.where(magnitude >> np.uint64(53), (magnitude & ~low) | sticky, magnitude)
    return np.where(negative, -1.0, 1.0) * folded.astype(np.float64)


def rounded(raw: NDArray[Any], dtype: str, to: str) -> NDArray[np.uint64]:
    """Return the bit patterns of elements rounded to the dtype `to`: to nearest, ties to even.

    `raw` has the numpy dtype `RAW[dtype]`; the result has its shape.
    """
    if dtype == to:
        return bits(raw)
    if to == "F64":
        return values(raw, dtype).view(np.uint64)
    form = FLOATS[to]
    exact = _rounding_once(raw) if dtype in INTEGERS else values(raw, dtype)
    magnitude = np.where(np.isfinite(exact), np.abs(exact), 0.0)
    _, exponent = np.frexp(magnitude)  # magnitude is in [2**(exponent - 1), 2**exponent)
    lowest = form.min_exponent + 1
    exponent = np.where(magnitude > 0, np.maximum(exponent, lowest), lowest)
    quantum = np.rint(np.ldexp(magnitude, form.precision - exponent)).astype(np.uint64)
    # A subnormal's code is its quantum. A normal number's hidden bit carries into the exponent.
    steps = (exponent - lowest).astype(np.uint64)
    code = (steps << np.uint64(form.precision - 1)) + quantum
    code = np.minimum(code, np.uint64(form.overflow))
    code = np.where(np.isinf(exact), np.uint64(form.overflow), code)
    code = np.where(np.isnan(exact), np.uint64((1 << (form.bits - 1)) - 1), code)
    sign = np.signbit(exact).astype(np.uint64) << np.uint64(form.bits - 1)
    signed: NDArray[np.uint64] = code | sign
    return signed


def finite(codes: NDArray[np.uint64], dtype: str) -> NDArray[np.bool_]:
    """Return which codes of a dtype are neither NaN nor infinite. The shape is kept."""
    mask, limit = 0xFF, 0xFF
    if dtype != "F8_E8M0":
        form = FLOATS[dtype]
        mask, limit = (1 << (form.bits - 1)) - 1, form.overflow
    below: NDArray[np.bool_] = np.less(codes & np.uint64(mask), limit)
    return below


def ulp_distance(a: NDArray[np.uint64], b: NDArray[np.uint64], dtype: str) -> NDArray[np.uint64]:
    """Return the distance of two codes of a dtype in ULP; +0 and -0 are 0 apart.

    Both arrays and the result have one shape.
    """
    if dtype == "F8_E8M0":
        return np.maximum(a, b) - np.minimum(a, b)
    sign_bit = np.uint64(1 << (FLOATS[dtype].bits - 1))
    magnitude_a, magnitude_b = a & ~sign_bit, b & ~sign_bit
    same_sign = np.maximum(magnitude_a, magnitude_b) - np.minimum(magnitude_a, magnitude_b)
    return np.where((a ^ b) & sign_bit, magnitude_a + magnitude_b, same_sign)


def integer_distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.uint64]:
    """Return |a-b| of integers of any two dtypes, exactly, and at most 2**64 - 1.

    Both arrays and the result have one shape.
    """
    # Numbers of opposite sign are as far apart as the sum of their magnitudes. That fits, unless an
    # I64 near its least value meets a U64 near its greatest.
    negative_a, negative_b = a < 0, b < 0
    magnitude_a, magnitude_b = a.astype(np.uint64), b.astype(np.uint64)
    magnitude_a = np.where(negative_a, ~magnitude_a + np.uint64(1), magnitude_a)
    magnitude_b = np.where(negative_b, ~magnitude_b + np.uint64(1), magnitude_b)
    same_sign = np.maximum(magnitude_a, magnitude_b) - np.minimum(magnitude_a, magnitude_b)
    opposite_sign = magnitude_a + magnitude_b
    opposite_sign = np.where(opposite_sign < magnitude_a, np.uint64(2**64 - 1), opposite_sign)
    return np.where(negative_a != negative_b, opposite_sign, same_sign)


def bit_lengths(numbers: NDArray[np.uint64]) -> list[int]:
    """Return how many of the numbers have 0, 1, 2, … significant bits. They have any shape."""
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    counts: list[int] = np.bincount(np.searchsorted(powers, numbers, side="right")).tolist()
    return counts
