"""The widget that shows lines of text with roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.style import Style
from textual.widget import Widget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.geometry import Size

    from ckptdiff.tui.text.lines import Line


ANY_HEIGHT = 10_000  # lines; more than any widget has


class Painted(Widget):
    """Shows `lines(width, height)`, which subclasses define."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "painted--dim",
        "painted--strong",
        "painted--act",
        "painted--this",
        "painted--other",
        "painted--bar",
        "painted--cursor",
        "painted--same",
        "painted--close",
        "painted--matched",
        "painted--packed",
        "painted--differ",
        "painted--shape",
        "painted--only",
        "painted--error",
    }
    DEFAULT_CSS = """
    Painted {
        height: auto;
        text-wrap: nowrap;
        text-overflow: clip;
        .painted--strong { text-style: bold; }
        .painted--act { color: $warning; text-style: bold; }
        .painted--this { color: $primary; text-style: bold; }
        .painted--bar { color: $primary; }
        .painted--cursor { text-style: reverse; }
        .painted--close { color: $primary; }
        .painted--matched { color: $primary; }
        .painted--packed { color: $secondary; }
        .painted--differ { color: $warning; text-style: bold; }
        .painted--shape { color: $accent; text-style: bold; }
        .painted--only { color: $secondary; }
        .painted--error { color: $error; text-style: reverse; }
    }
    """

    _drawn: tuple[tuple[int, int], Sequence[Line]] | None = None

    def lines(self, width: int, height: int) -> Sequence[Line]:
        """Return the lines for this size; those beyond `height` are clipped."""
        raise NotImplementedError

    def changed(self) -> None:
        """Draw the lines again, and adapt an automatic height to their number."""
        self._drawn = None
        self.refresh(layout=self.styles.is_auto_height)

    def _draw(self, width: int, height: int) -> Sequence[Line]:
        """Return the lines for a size, cached: Textual asks several times in a row."""
        if self._drawn is None or self._drawn[0] != (width, height):
            self._drawn = (width, height), self.lines(width, height)
        return self._drawn[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        # As high as all its lines: what does not fit is scrolled or clipped.
        return len(self._draw(width, ANY_HEIGHT))

    def render(self) -> Content:
        width, height = self.content_size
        if self.styles.is_auto_height:
            height = ANY_HEIGHT
        parts: list[str | tuple[str, Style]] = []
        for number, spans in enumerate(self._draw(width, height)):
            if number:
                parts.append("\n")
            for text, role in spans:
                parts.append((text, self._style(role)) if role else text)
        return Content.assemble(*parts)

    def _style(self, role: str) -> Style:
        style = self.get_visual_style(f"painted--{role}", partial=True)
        # Textual leaves `reverse` out of visual styles.
        if self.get_component_styles(f"painted--{role}").text_style.reverse:
            style += Style(reverse=True)
        return style


class Words(Painted):
    """Shows the lines that a function makes for the width."""

    _make: Callable[[int], Sequence[Line]] | None = None

    def show(self, make: Callable[[int], Sequence[Line]]) -> None:
        self._make = make
        self.changed()

    def lines(self, width: int, height: int) -> Sequence[Line]:  # noqa: ARG002
        return [] if self._make is None else self._make(width)
