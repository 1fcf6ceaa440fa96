"""Choose tensors by name: `--filter` on the command line, `/` on the screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    from collections.abc import Callable


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a name matches a pattern.

    A pattern is words that must all occur in the name, or `re:` and a regular expression. Raises
    BadArgument if the regular expression cannot be compiled.
    """
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise BadArgument(f"'{pattern}' is not a regular expression: {error}") from error
        return lambda name: expression.search(name) is not None
    words = pattern.split()
    return lambda name: all(word in name for word in words)
