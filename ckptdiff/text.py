"""Format numbers, sizes, shapes and names as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.checkpoint import Box


_MOST_BITS = 256  # of an integer that is written in digits
_FEW = 8  # elements of a list that are written out


def format_bytes(nbytes: float) -> str:
    """Return a size in bytes with three significant digits and a unit, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 99.95 else f"{nbytes:.3g} {unit}"


def format_shape(shape: tuple[int, ...] | None) -> str:
    """Return a shape such as `4096x11008`; `scalar` for (), an empty text for None."""
    if shape is None:
        return ""
    return "x".join(map(str, shape)) if shape else "scalar"


def format_number(value: float, digits: int = 2) -> str:
    """Return `0` for exactly zero, else its significant digits, two if not told, in `e` form."""
    if value == 0:
        return "0"
    return f"{value:.{digits - 1}e}" if math.isfinite(value) else str(value)


def format_cosine(value: float) -> str:
    """Return a cosine with three decimals; `1` only for exactly 1, so `1.000` is less."""
    return "1" if value == 1 else f"{value:.3f}"


def printable(text: str) -> str:
    """Return text with control characters escaped, so that no file can control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, most: int = 60) -> str:
    """Return a value from a file in few characters, for an error, whatever its size and nesting.

    Neither `str` nor `repr` is given what was not counted: parts that are shared may make a text of
    a few hundred bytes endless, and nested ones exhaust the stack.
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:most]) + ("…" if len(value) > most else "")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) and len(value) <= _FEW:
        inside = ", ".join(shown(v, most) if _is_short(v) else type(v).__name__ for v in value)
        return f"[{inside}]"
    if isinstance(value, (list, tuple, dict, set, frozenset, bytearray)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _is_short(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def config_value_text(value: object) -> str:
    """Return a value of a config as text: 500000 for 500000.0, null and true as in JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(config_value_text, value))}]"
    if isinstance(value, dict):
        inside = (f"{config_value_text(key)}: {config_value_text(v)}" for key, v in value.items())
        return f"{{{', '.join(inside)}}}"
    return printable(str(value))


def setting_text(value: object) -> str:
    """Return what a setting is, for people: yes and no, none, and 500,000 for 500000.0."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else config_value_text(value)


def format_box(box: Box) -> str:
    """Return a box as Python slices it: [0:64, 32:64]."""
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"


def number_ranges(numbers: Iterable[int], separator: str = ", ") -> str:
    """Return sorted numbers as ranges: `0-3, 7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = (str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return separator.join(texts)


def plural(count: int, noun: str) -> str:
    """Return `1 tensor`, `2 tensors`, `92,000 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration: `0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
