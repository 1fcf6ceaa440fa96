"""Choose tensors by name: `--filter` on the command line, `/` on the screen."""

from __future__ import annotations

import re
import signal
import threading
from typing import TYPE_CHECKING

from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SECONDS = 2  # of the processor, for a regular expression on one name


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a name matches a pattern.

    A pattern is words that must all occur in the name, or `re:` and a regular expression. Raises
    BadArgument if the regular expression cannot be compiled; so does the function, in the main
    thread, if it takes too long on a name.
    """
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise BadArgument(f"'{pattern}' is not a regular expression: {error}") from error
        return lambda name: _found(expression, name)
    words = pattern.split()
    return lambda name: all(word in name for word in words)


def _found(expression: re.Pattern[str], name: str) -> bool:
    """Return whether a name matches. Some expressions would try ways to match for years."""
    if threading.current_thread() is not threading.main_thread():
        return expression.search(name) is not None

    def stop(*_: object) -> None:
        raise BadArgument(
            f"'re:{expression.pattern}' takes too long on a name of {len(name)} characters; "
            "repeat nothing in it that itself repeats, as (a+)+ does"
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        return expression.search(name) is not None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
