"""A finding in full: where it is, the evidence, the effect, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.report.displaced_plot import picture
from ckptdiff.report.finding import said
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line

if TYPE_CHECKING:
    from ckptdiff.results import Finding
    from ckptdiff.tui.text.lines import Line

LABEL = 11  # cells
MOST_FIX = 5  # lines of the fix: its command may name many tensors


def finding_page(finding: Finding, width: int, *, ascii_only: bool) -> list[Line]:
    """Return the lines of a finding: labels at the left, the plot of displaced rows at the end."""
    lines = wrapped(printable(finding.title), width, "strong")
    for label, text in said(finding):
        role = "bar" if label == "Fix" and finding.fix is not None else ""
        rows = wrapped(printable(text), max(10, width - LABEL), role)
        if label == "Fix" and len(rows) > MOST_FIX:
            dots = ".." if ascii_only else "…"
            rows = [
                *rows[: MOST_FIX - 1],
                line((f"{dots} {key('findings.copy', 'y')} copies all of it", "dim")),
            ]
        for number, row in enumerate(rows):
            lines.append(line((f"{'' if number else label:<{LABEL}}", "dim"), *row))
    if finding.displaced is not None:
        drawn = picture(finding.displaced, ascii_only=ascii_only)
        lines.append(line(""))
        for number, text in enumerate(drawn):
            lines.append(line((f"{'' if number else 'Picture':<{LABEL}}", "dim"), printable(text)))
    return lines
