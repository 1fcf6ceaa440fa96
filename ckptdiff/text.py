"""Format numbers, sizes, shapes and names as text."""

from __future__ import annotations

import html
import math
import os
import re
import shlex
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


# Characters that Unicode calls printable and nobody sees: joiners, fillers, variation selectors,
# and the blank pattern of Braille.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str) -> str:
    """Return text with what cannot be seen escaped: no file may control the terminal, or lie.

    Control characters, marks of direction, blanks but the common one, halves of characters.
    """
    if text.isprintable() and (text.isascii() or _UNSEEN.search(text) is None):
        return text
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode() for c in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() and _UNSEEN.match(character) is None


def html_text(text: str) -> str:
    """Return text for a page of HTML, in which it is neither markup nor unseen."""
    return html.escape(printable(text))


def printable_lines(text: str) -> str:
    """Return text of many lines with all but their ends printable."""
    return "\n".join(map(printable, text.split("\n")))


def shell_word(word: str) -> str:
    """Return a word as a shell reads it, in characters that can be seen.

    Others are bash's octal escapes of the bytes that the file system has for them.
    """
    if printable(word) == word:
        return shlex.quote(word)
    marked = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if _is_seen(c) else _octal(c) for c in marked) + "'"


def _octal(character: str) -> str:
    try:
        data = os.fsencode(character)
    except UnicodeEncodeError:  # half of a character, from JSON
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


def shell_line(words: Iterable[str]) -> str:
    """Return a command line as a shell reads it, in characters that can be seen."""
    return " ".join(map(shell_word, words))


def operand(path: object) -> str:
    """Return a path as an argument that is not parsed as an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def option(flag: str, value: str) -> list[str]:
    """Return an option with its value, of which no parser takes the value for another option."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def pasted_name(name: str) -> str:
    """Return a name for the clipboard: as it is, or quoted for a shell if not all can be seen."""
    return name if printable(name) == name else shell_word(name)


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
