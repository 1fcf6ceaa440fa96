"""Lines that say where a side is not what its config promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widget import Widget

from ckptdiff.assembly.shortfall_words import shortfall_lines
from ckptdiff.text import printable
from ckptdiff.tui.words import fitted

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Session


MAX_ROWS = 2  # for one side


class ShortfallLine(Widget):
    """A sentence for each side that falls short; no line while both are whole."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"shortfall-line--words"}
    DEFAULT_CSS = """
    ShortfallLine {
        display: none;
        height: auto;
        padding: 0 1;
        .shortfall-line--words { color: $warning; text-style: bold; }
        &.-shown { display: block; }
    }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def show(self) -> None:
        """Show what is known of the sides that are open."""
        self.set_class(bool(self._sides()), "-shown")
        self.refresh(layout=True)

    def render(self) -> Content:
        session = self.session
        glyph = "x" if session.ascii_only else "✗"
        width = self.size.width
        lines = []
        for letter, found in self._sides():
            more = f"   and {len(found) - 1} more" if len(found) > 1 else ""
            words = f"{glyph} {letter}{printable(found[0])}"
            room = max(8, MAX_ROWS * (width - 1) - len(more))  # a row may break early
            lines.append(fitted(words, room, ascii_only=session.ascii_only).rstrip() + more)
        style = self.get_visual_style("shortfall-line--words")
        return Content("\n").join(Content.styled(line, style) for line in lines)

    def _sides(self) -> list[tuple[str, list[str]]]:
        """Return the letter of each side that falls short, and the sentences about it."""
        session = self.session
        return [
            ("" if session.browsing else f"{letter} ", shortfall_lines(side))
            for letter, side in (("A", session.a), ("B", session.b))
            if side is not None and side.shortfall
        ]
