"""Numbers, sizes and names as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Box


def format_bytes(nbytes: float) -> str:
    """Return a size with three significant digits, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 99.95 else f"{nbytes:.3g} {unit}"


def format_shape(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return ""
    return "x".join(map(str, shape)) if shape else "scalar"


def format_number(value: float) -> str:
    """Return `0` for exactly zero, else two significant digits in `e` form."""
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def format_cosine(value: float) -> str:
    """Return `1` only for exactly one: `1.000` means "not exactly one"."""
    return "1" if value == 1 else f"{value:.3f}"


def printable(text: str) -> str:
    """Return text from a file so that it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_box(box: Box) -> str:
    """Return a box as Python slices it: [0:64, 32:64]."""
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"
