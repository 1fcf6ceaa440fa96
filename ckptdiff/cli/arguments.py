"""What the text of an option stands for; argparse refuses the text where ValueError is raised."""

from __future__ import annotations

import re
from pathlib import Path

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?$", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def size(text: str) -> int:
    """Return the bytes of `5GB` or `800MB`, in powers of ten."""
    match = _SIZE.match(text)
    if match is None or not float(match[1]):
        raise ValueError
    return int(float(match[1]) * _UNITS[match[2].upper()])


def page(text: str) -> Path:
    if not text.endswith((".md", ".html")):
        raise ValueError
    return Path(text)


# So argparse names them when it refuses a text.
positive.__name__ = "positive number"
size.__name__ = "size such as 5GB or 800MB"
page.__name__ = "file name in .md or .html"

# What options that several commands have are for.
PATTERN_HELP = "words that must all occur in a name, or re: and a regular expression"
OPTIMIZER_HELP = "compare master weights and moments as well"
JOBS_HELP = "worker processes (default: the CPUs that may be used)"
