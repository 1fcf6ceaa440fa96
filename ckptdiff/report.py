"""Say results in words: the glyphs, the numbers, the table, the JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, format_cosine, format_number, format_shape, printable

if TYPE_CHECKING:
    from ckptdiff.diff import Status

__all__ = [
    "GLYPH",
    "WORD",
    "format_bytes",
    "format_cosine",
    "format_number",
    "format_shape",
    "printable",
]

# The glyph carries the meaning; a colour may repeat it.
GLYPH: dict[Status, str] = {
    "same": "=",
    "close": "~",
    "differ": "!",
    "shape": "#",
    "only_a": "<",
    "only_b": ">",
    "error": "x",
}
WORD: dict[Status, str] = {
    "same": "same",
    "close": "close",
    "differ": "differ",
    "shape": "shape",
    "only_a": "only in A",
    "only_b": "only in B",
    "error": "error",
}
