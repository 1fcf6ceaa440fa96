"""Lines of text in which each span has a role, such as `dim`. `widgets.painted` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    StyledText = tuple[str, str]  # text and its role: a component class of Painted, or ""
    Line = tuple[StyledText, ...]


def plain(lines: Iterable[Line]) -> list[str]:
    """Return the lines as plain text, without blanks at the end."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def line(*spans: str | StyledText) -> Line:
    """Return a line; a span given as a string has no role."""
    return tuple((span, "") if isinstance(span, str) else span for span in spans)
