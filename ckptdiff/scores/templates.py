"""Templates of tasks: they may come from files of others, so they see values and no Python."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_MOST = 1_000_000  # characters, items, or bits of a number, that one operation may make


def sandbox(theirs: Any) -> Any:
    """Return an environment for templates like `theirs`, in which they cannot do harm."""
    from jinja2.sandbox import SandboxedEnvironment

    class Sandbox(SandboxedEnvironment):
        """Lets no template reach into Python, nor fill memory by a product or a power."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > _MOST:
                raise OverflowError(f"a template makes too much by {operator}")
            return super().call_binop(context, operator, left, right)

    found = Sandbox(undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline)
    found.filters.update(theirs.filters)
    # lm-eval compiles a template with every document.
    found.from_string = lru_cache(maxsize=1000)(found.from_string)  # type: ignore[assignment, method-assign]
    return found


def _size(operator: str, left: Any, right: Any) -> int:
    """Return about how large a product or a power is: its items, or its bits."""
    if operator == "**":
        both_whole = isinstance(left, int) and isinstance(right, int)
        return left.bit_length() * max(0, right) if both_whole else 0
    for one, other in ((left, right), (right, left)):
        if hasattr(one, "__len__") and isinstance(other, int):
            return len(one) * max(0, other)
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return 0
