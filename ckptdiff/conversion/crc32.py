"""Combine the CRC-32 of consecutive parts of a file, each computed by another process.

A CRC is the remainder of a polynomial over GF(2) (ISO 3309). Appending n bytes multiplies the
polynomial before them by x to the power of 8n, and remainders add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_POLYNOMIAL = 0xEDB88320  # of zlib and zip; the highest power is in the lowest bit
_ONE = 1 << 31  # the polynomial 1


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32 of concatenated parts, given (checksum, number of bytes) of each."""
    total = 0
    for checksum, nbytes in parts:
        total = _times(_power_of_x(8 * nbytes), total) ^ checksum
    return total


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials, modulo the CRC's polynomial."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _power_of_x(exponent: int) -> int:
    """Return x to a power, modulo the CRC's polynomial, by repeated squaring."""
    result, base = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _times(result, base)
        base = _times(base, base)
        exponent >>= 1
    return result
