"""Lines of text with roles, which pure functions make and `widgets.painted` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    StyledText = tuple[str, str]  # text and its role: a component class of Painted, or none
    Line = tuple[StyledText, ...]


def plain(lines: Iterable[Line]) -> list[str]:
    """Return the lines without their roles and without blanks at the end."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def line(*spans: str | StyledText) -> Line:
    return tuple((span, "") if isinstance(span, str) else span for span in spans)
