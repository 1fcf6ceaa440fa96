"""Join the CRC-32 of two runs of bytes to that of both, one behind the other.

A CRC is the remainder of a polynomial over GF(2) (ISO 3309). Appending n bytes multiplies what was
before by x to the power of 8n, and the remainders add up; so the checksum of a long run can be put
together from those of its parts, each taken by another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_POLYNOMIAL = 0xEDB88320  # of zlib and zip; the highest power is in the lowest bit
_ONE = 1 << 31


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32 of runs that follow each other: (checksum, number of bytes) of each."""
    total = 0
    for checksum, nbytes in parts:
        total = _times(_power_of_x(8 * nbytes), total) ^ checksum
    return total


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials, modulo that of the CRC."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _power_of_x(exponent: int) -> int:
    """Return x to a power, by squaring."""
    result, base = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _times(result, base)
        base = _times(base, base)
        exponent >>= 1
    return result
