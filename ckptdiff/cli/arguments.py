"""Parse the values of options, for argparse: a ValueError makes it refuse the text."""

from __future__ import annotations

import re
from pathlib import Path

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?$", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def positive(text: str) -> int:
    """Return an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def size(text: str) -> int:
    """Return a size such as `5GB` or `800MB` in bytes; units are powers of 1000."""
    match = _SIZE.match(text)
    if match is None or not float(match[1]):
        raise ValueError
    return int(float(match[1]) * _UNITS[match[2].upper()])


def page(text: str) -> Path:
    """Return a file name that ends in .md or .html."""
    if not text.endswith((".md", ".html")):
        raise ValueError
    return Path(text)


# What argparse calls them in its error message.
positive.__name__ = "positive number"
size.__name__ = "size such as 5GB or 800MB"
page.__name__ = "file name in .md or .html"

# Help of options that several commands have.
PATTERN_HELP = "words that must all occur in a name, or re: and a regular expression"
OPTIMIZER_HELP = "compare master weights and moments as well"
JOBS_HELP = "worker processes (default: the CPUs that may be used)"
JSON_HELP = "write the result as a JSON document to FILE; - is the standard output"
ADAPTER_HELP = "a LoRA adapter that is added to the weights of {} while they are read"
