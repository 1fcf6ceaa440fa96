"""The line under the list: the state of the diagnosis, or its first finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widget import Widget

from ckptdiff.text import number_ranges, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.finding import finding_glyph
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.session import Session


def place_words(finding: Finding) -> str:
    """Return the layers and experts of a finding: `layers 0-3, expert 7`; "" if it has none."""
    parts = [
        f"{word}{'' if len(numbers) == 1 else 's'} {number_ranges(numbers)}"
        for word, numbers in (("layer", finding.layers), ("expert", finding.experts))
        if numbers
    ]
    return ", ".join(parts)


def finding_words(session: Session, width: int) -> str:
    """Return the state of the diagnosis, or its first finding and the number of others."""
    findings_key = key("tensors.findings", "f")
    match session.diagnosis_state:
        case "looking":
            dots = "..." if session.ascii_only else "…"
            return f"Looking for the cause {dots}   {key('tensors.stop', 'x')} stops."
        case "stopped":
            return f"Stopped looking for the cause. {findings_key} looks again."
        case "failed":
            return f"x {printable(session.diagnosis_error or '')} {findings_key} looks again."
        case "none":
            return ""
    findings = session.diagnosis.findings
    if not findings:
        return "No fault that ckptdiff knows explains the differences."
    first = findings[0]
    head = f"{finding_glyph(first, ascii_only=session.ascii_only)} {first.kind}"
    if place := place_words(first):
        head += f" {shorten(place, max(12, width // 4), ascii_only=session.ascii_only)}"
    end = f"   {findings_key} findings"
    if len(findings) > 1:
        end = f"   and {len(findings) - 1} more{end}"
    text = f"{head}: {printable(first.title)}"
    if len(text) > width - len(end):
        dots = ".." if session.ascii_only else "…"
        text = text[: max(0, width - len(end) - len(dots))].rstrip() + dots
    return text + end


class FindingLine(Widget):
    """Takes no line before a diagnosis has started."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"finding-line--fault"}
    DEFAULT_CSS = """
    FindingLine {
        display: none;
        height: 1;
        padding: 0 1;
        text-wrap: nowrap;
        .finding-line--fault { color: $warning; text-style: bold; }
        &.-shown { display: block; }
    }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def show(self) -> None:
        """Show the line once a diagnosis has started."""
        self.set_class(self.session.diagnosis_state != "none", "-shown")
        self.refresh()

    def render(self) -> Content:
        words = finding_words(self.session, self.size.width)
        findings = self.session.diagnosis.findings
        if findings and findings[0].severity == "fault":
            return Content.styled(words, self.get_visual_style("finding-line--fault"))
        return Content(words)

    async def on_click(self) -> None:
        if self.text_selection is None:  # else it is the end of a drag
            await self.app.run_action("findings", self.screen)
