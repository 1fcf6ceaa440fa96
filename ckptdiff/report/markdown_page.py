"""The report in Markdown as GitHub reads it. Nothing from a file is markup in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.config.compare import field_text
from ckptdiff.report.diff import side_line
from ckptdiff.report.displaced_plot import picture
from ckptdiff.report.joint_fix import joint_fix_of, joint_title
from ckptdiff.report.listed import verdict_words
from ckptdiff.report.page_facts import (
    HEADS,
    conflicts_of,
    facts,
    facts_of,
    faults,
    fix_label,
    rows_of,
)
from ckptdiff.text import printable, printable_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding, TensorDiff

_BACKTICKS = re.compile("`+")
# What may be markup wherever it stands; _ is none inside a word.
# A colon and the point of `www.` are what GitHub makes links of.
_MARKUP = re.compile(r"[\\`*\[\]<>#|~&$]|\b_|_\b|(?<!\w)_|:(?=//)|(?<=www)\.")


def markdown_page(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
) -> str:
    """Return the report in Markdown."""
    lines = [
        f"# ckptdiff: {prose(verdict_words(summary))}",
        "",
        f"- A: {code(side_line(a))}",
        f"- B: {code(side_line(b))}",
        *(f"- {text}" for text in facts(a, b, results, summary, pattern, prose)),
        *map(_conflict, conflicts_of(summary)),
        "",
    ]
    if (joint := joint_fix_of(a, b, summary)) is not None:
        title = joint_title(joint)
        lines += (f"## {title[0].upper()}{prose(title[1:])}", "")
        lines += block(printable(joint.command), "sh")
    for finding in faults(summary):
        lines += _finding(finding)
    rows = rows_of(results)
    if rows:
        lines += ["| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _conflict(line: ConfigDiff) -> str:
    words = (
        f"- {prose(line.meaning)} conflicts: {code(field_text(line, 'A'))} in A, "
        f"{code(field_text(line, 'B'))} in B. {prose(line.consequence or '')}"
    )
    return f"{words} Fix: {code(line.fix)}" if line.fix else words


def _finding(finding: Finding) -> Iterator[str]:
    yield from (f"## {finding.kind} {finding.severity}: {prose(finding.title)}", "")
    yield from (f"- {label}: {prose(text)}" for label, text in facts_of(finding))
    yield ""
    if finding.fix is not None:
        yield from (f"{fix_label(finding.fix)}:", "", *block(printable(finding.fix), "sh"))
    if finding.displaced is not None:
        yield from block("\n".join(picture(finding.displaced)), "text")


def block(text: str, kind: str) -> tuple[str, ...]:
    """Return lines that show text as it is, in a fence that nothing in it can end."""
    text = printable_lines(text)
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{kind}", text, fence, ""


def _longest_run(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)


def prose(text: str) -> str:
    """Return text in which no character is markup, or unseen."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", printable(text))


def code(text: str) -> str:
    """Return text as a code span that no character in it can end."""
    text = printable(text)
    if not text.strip():
        return text
    fence = "`" * (1 + _longest_run(text))
    # A reader takes one blank off each end if there is one at both.
    blank = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def cell(text: str) -> str:
    """Return text as code in a cell of a table, where `|` and `\\` mean more."""
    text = printable(text)
    if "|" not in text and "\\" not in text:
        return code(text)
    characters = (c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
    return f"<code>{''.join(characters)}</code>"
