"""A finding in full: where it is, the evidence, the effect, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.report.displaced_plot import picture
from ckptdiff.report.finding import said, touched
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.words import fitted

if TYPE_CHECKING:
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.text.lines import Line

LABEL = 11  # cells
MOST_FIX = 5  # lines of the fix: its command may name many tensors
FEW, SHORT_FIX = 3, 2  # lines of the title and of the fix in a summary


def finding_glyph(finding: Finding, *, ascii_only: bool) -> str:
    """Return the glyph of a finding, by whether it is a fault or a note."""
    if finding.severity != "fault":
        return "i"
    return "x" if ascii_only else "✗"


def finding_summary(
    diagnosis: Diagnosis, number: int, width: int, *, ascii_only: bool
) -> list[Line]:
    """Return a finding in few lines: what, where, how it is mended, and the keys for the rest."""
    finding = diagnosis.findings[number - 1]
    head, role = _head(diagnosis, number, ascii_only=ascii_only)
    lines = wrapped(head, width, role)
    title = wrapped(printable(finding.title), width, "strong")
    lines += _cut(title, FEW, ascii_only=ascii_only)
    if finding.tensors:
        lines += _cut(wrapped(printable(touched(finding)), width), FEW, ascii_only=ascii_only)
    fix, role = _fix(finding)
    lines += _cut(wrapped(fix, width, role), SHORT_FIX, ascii_only=ascii_only)
    return [*lines, line((_keys(diagnosis, number), "this"))]


def short_finding(diagnosis: Diagnosis, number: int, width: int, *, ascii_only: bool) -> list[Line]:
    """Return a finding in three lines: what, how it is mended, and the keys beside where it is."""
    finding = diagnosis.findings[number - 1]

    def cut(text: str, room: int) -> str:
        return fitted(text, max(1, room), ascii_only=ascii_only).rstrip()

    head, role = _head(diagnosis, number, ascii_only=ascii_only)
    title = cut(printable(finding.title), width - len(head) - 2)
    lines = [line((f"{head}: ", role), (title, "strong"))]
    fix, role = _fix(finding)
    if fix:
        lines.append(line((cut(fix, width), role)))
    keys = _keys(diagnosis, number)
    where = f"   {printable(touched(finding))}" if finding.tensors else ""
    return [*lines, line((keys, "this"), cut(where, width - len(keys)))]


def _head(diagnosis: Diagnosis, number: int, *, ascii_only: bool) -> tuple[str, str]:
    """Return the glyph, number and class of a finding, and their role."""
    finding, count = diagnosis.findings[number - 1], len(diagnosis.findings)
    of = f" of {count}" if count > 1 else ""
    glyph = finding_glyph(finding, ascii_only=ascii_only)
    role = "act" if finding.severity == "fault" else "strong"
    return f"{glyph} Finding {number}{of}, {finding.kind}", role


def _fix(finding: Finding) -> tuple[str, str]:
    """Return how a finding is mended, and the role of that; "" where nothing is known."""
    return printable(dict(said(finding)).get("Fix") or ""), "bar" if finding.fix is not None else ""


def _keys(diagnosis: Diagnosis, number: int) -> str:
    mends = f"{key('tensors.convert', 'c')} mends it   " if number in diagnosis.targets else ""
    return f"{mends}{key('tensors.findings', 'f')} all of it"


def _cut(lines: list[Line], most: int, *, ascii_only: bool) -> list[Line]:
    """Return the first lines, with an ellipsis at the end of the last if there are more."""
    if len(lines) <= most:
        return lines
    dots = ".." if ascii_only else "…"
    ((text, role),) = lines[most - 1]
    return [*lines[: most - 1], line((f"{text[: -len(dots)]}{dots}", role))]


def finding_words(numbered: tuple[int, Finding]) -> str:
    """Return the number, the class and the title of a finding, as a sentence."""
    number, finding = numbered
    return f"Finding {number}, {finding.kind}: {printable(finding.title)}."


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
