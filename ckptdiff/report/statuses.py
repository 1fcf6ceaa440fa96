"""How a status and a verdict are shown: a glyph and a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.results import Status, Verdict

# The glyph carries the meaning; a colour may repeat it.
GLYPH: dict[Status, str] = {
    "same": "=",
    "close": "~",
    "matched": "@",
    "packed": "%",
    "differ": "!",
    "shape": "#",
    "only_a": "<",
    "only_b": ">",
    "error": "x",
}
VERDICT_GLYPH: dict[Verdict, str] = {
    "same": "=",
    "close": "~",
    "matched": "@",
    "packed": "%",
    "differ": "!",
    "trouble": "x",
}
WORD: dict[Status, str] = {
    "same": "same",
    "close": "close",
    "matched": "matched",
    "packed": "packed",
    "differ": "differ",
    "shape": "shape",
    "only_a": "only in A",
    "only_b": "only in B",
    "error": "error",
}
