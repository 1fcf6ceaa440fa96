"""The standard streams, whatever they are: closed, of few characters, not waiting."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from io import TextIOWrapper

# What is drawn with, in ASCII. Anything else that an output cannot hold is escaped.
_TWINS = {
    "✗": "x", "✓": "+", "…": "...", "·": ".", "─": "-", "━": "-", "│": "|", "²": "^2", "√": "sqrt ",
    "±": "+-", "█": "#", "▀": '"', "▄": "_", "▁": "_", "→": "->",
    "\u00d7": "x", "\u2013": "-", "\u2019": "'",
}  # fmt: skip
_HANDLER = "ckptdiff"


def prepare() -> bool:
    """Make the streams fit for results and errors; return whether there is a standard output.

    A pipe that its other end has told not to wait is told to: a result is printed whole.
    """
    is_open = sys.stdout is not None
    codecs.register_error(_HANDLER, _twins)
    _hold_places()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
            with contextlib.suppress(OSError):
                os.set_blocking(stream.fileno(), True)
    return is_open


def _hold_places() -> None:
    """Open nothing in the place of closed streams: a file that is opened would take it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- the place


def _twins(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that an encoding lacks, and where they end."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_TWINS.get(c) or _escaped(c) for c in lacking), error.end


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
