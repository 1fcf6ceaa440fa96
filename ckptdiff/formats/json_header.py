"""Read the JSON header of a safetensors file one entry at a time, in little memory."""

from __future__ import annotations

from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # no stub knows it
from typing import TYPE_CHECKING, Any

from ckptdiff.formats.json_files import unique

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE = " \t\n\r"
# A header with more of something, for its length, than tensors can have is not parsed: it would
# take tens of bytes for each of its own. A tensor takes 50 characters or more, 10 quotes of them,
# 3 brackets, and a comma for each of its sizes.
_SPARE = 1_000_000  # characters of each kind that are no question of the length
_FEWEST = {'"': 4, "[": 20, "{": 40, ",": 4}


def entries(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a header. Raises ValueError or RecursionError if it is wrong.

    An entry is parsed when the one before it was taken. That a key is there twice is told only
    inside of an entry.
    """
    if not text.startswith("{"):
        raise ValueError("it does not start with {")
    for character, each in _FEWEST.items():
        if text.count(character) > _SPARE + len(text) // each:
            raise ValueError(f"it has more {character} than tensors can have")
    integer = _not_minus_zero if "-0" in text else None
    decoder: Any = JSONDecoder(
        object_pairs_hook=unique, parse_int=integer, parse_constant=_no_constant
    )
    scan = decoder.scan_once  # `raw_decode` is a call more for each entry
    has_escapes = "\\u" in text
    try:
        pos = _behind_space(text, 1)
        ended = text[pos] == "}"
        while not ended:
            if text[pos] != '"':
                raise ValueError(f"a name is missing at character {pos}")
            name, pos = scanstring(text, pos + 1, True)  # noqa: FBT003 -- strict
            if has_escapes:
                name.encode()  # raises a ValueError for half a surrogate pair
            if text[pos] != ":":
                pos = _behind_space(text, pos)
                if text[pos] != ":":
                    raise ValueError(f"a colon is missing at character {pos}")
            pos += 1
            if text[pos] in _SPACE:
                pos = _behind_space(text, pos)
            value, pos = scan(text, pos)
            yield name, value
            if text[pos] in _SPACE:
                pos = _behind_space(text, pos)
            ended = text[pos] == "}"
            if not ended:
                if text[pos] != ",":
                    raise ValueError(f"a comma is missing at character {pos}")
                pos += 1
                if text[pos] in _SPACE:
                    pos = _behind_space(text, pos)
    except StopIteration as error:
        raise ValueError(f"a value is missing at character {error.value}") from error
    except IndexError as error:
        raise ValueError("it ends before its closing }") from error
    if text[pos + 1 :].strip(_SPACE):
        raise ValueError("something follows the closing }")


def _behind_space(text: str, pos: int) -> int:
    while text[pos] in _SPACE:
        pos += 1
    return pos


def _not_minus_zero(digits: str) -> int:
    if digits == "-0":
        raise ValueError("a number is -0")
    return int(digits)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
