"""Reports for a ticket or a pull request: one self-contained page, text, or JSON."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.shortfall_words import shortfall_lines
from ckptdiff.config.compare import field_text
from ckptdiff.errors import UnreadableFile
from ckptdiff.report.diff import diff_document, diff_lines, hints, side_line
from ckptdiff.report.displaced_plot import picture
from ckptdiff.report.finding import said
from ckptdiff.report.listed import (
    CloseGroup,
    explained,
    listed,
    unlisted_notes,
    verdict_words,
    why_close,
)
from ckptdiff.report.statuses import GLYPH, VERDICT_GLYPH, WORD
from ckptdiff.report.unmapped import unmapped_groups
from ckptdiff.text import format_cosine, format_number, format_shape, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import Finding, Numbers, TensorDiff

MAX_ROWS = 1000  # differing tensors on a page; the JSON has all
HEADS = ("", "tensor", "status", "shape", "max abs", "rel L2", "cosine", "note")
STYLE = (
    "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:70em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ccc;"
    "text-align:left}td{font-family:monospace}.verdict{font-size:1.4em}"
    "pre{background:#f4f4f4;padding:.5em;line-height:1.1;white-space:pre-wrap;"
    "overflow-wrap:anywhere}dt{font-weight:bold}"
)


def write_report(
    file: Path,
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    *,
    pattern: str | None = None,
) -> None:
    """Write a report in the format of the file's suffix: .md, .html, .json, any other for text.

    Raises UnreadableFile if it cannot be written.
    """
    match file.suffix:
        case ".md":
            text = markdown_page(a, b, results, summary, pattern)
        case ".html":
            text = html_page(a, b, results, summary, pattern)
        case ".json":
            text = json.dumps(diff_document(a, b, results, summary, pattern=pattern), indent=1)
        case _:
            text = "\n".join(diff_lines(a, b, results, summary, pattern=pattern))
    write_whole(file, text + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a file completely or not at all. Raises UnreadableFile if it cannot be written.

    A pipe, a device or a link is written to, not replaced.
    """
    if file.is_symlink() or (file.exists() and not file.is_file()):
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UnreadableFile(f"{file}: cannot be written ({error.strerror})") from error
        return
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnreadableFile(f"{file}: cannot be written ({error.strerror})") from error


def print_json(document: dict[str, Any], target: str) -> None:
    """Write a JSON document to the standard output if `target` is `-`, else to that file."""
    text = json.dumps(document, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_whole(Path(target), text)


def markdown_page(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
) -> str:
    """Return the report in Markdown; text from files is in code spans, so that it is no markup."""
    lines = [
        f"# ckptdiff: {verdict_words(summary)}",
        "",
        f"- A: {_code(side_line(a))}",
        f"- B: {_code(side_line(b))}",
        *(f"- {text}" for text in _facts(a, b, results, summary, pattern, _code)),
        "",
    ]
    for finding in _faults(summary):
        lines += _finding_in_markdown(finding)
    rows = _rows(results)
    if rows:
        lines += ["| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
        lines += ["| " + " | ".join(_code(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _faults(summary: DiffSummary) -> list[Finding]:
    """Return the findings but those about the config, which have lines of their own."""
    return [finding for finding in summary.findings if finding.kind != "CONFIG"]


def _finding_in_markdown(finding: Finding) -> list[str]:
    lines = [f"## {_code(finding.kind)} {finding.severity}: {_code(printable(finding.title))}", ""]
    lines += [f"- {label}: {_code(printable(text))}" for label, text in _facts_of(finding)]
    lines.append("")
    for block, kind in ((_fix(finding), "sh"), (_picture(finding), "text")):
        if block is not None:
            fence = "`" * (1 + max([2, *map(len, re.findall("`+", block))]))
            lines += [f"{fence}{kind}", block, fence, ""]
    return lines


def _finding_in_html(finding: Finding) -> str:
    head = html.escape(f"{finding.kind} {finding.severity}: {printable(finding.title)}")
    facts = "".join(
        f"<dt>{label}</dt><dd>{html.escape(printable(text))}</dd>"
        for label, text in _facts_of(finding)
    )
    blocks = (_fix(finding), _picture(finding))
    code = "".join(f"<pre>{html.escape(block)}</pre>" for block in blocks if block is not None)
    return f"<h2>{head}</h2>\n<dl>{facts}</dl>{code}"


def _facts_of(finding: Finding) -> list[tuple[str, str]]:
    """Return the facts of a finding but the fix, which is a block of its own."""
    return [(label, text) for label, text in said(finding) if text != finding.fix]


def _fix(finding: Finding) -> str | None:
    return None if finding.fix is None else printable(finding.fix)


def _picture(finding: Finding) -> str | None:
    if finding.displaced is None:
        return None
    return "\n".join(map(printable, picture(finding.displaced)))


def html_page(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
) -> str:
    """Return the report as one HTML page without any other file."""
    facts = _facts(a, b, results, summary, pattern, html.escape)
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(results)
    )
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ckptdiff</title>'
            f"<style>{STYLE}</style>",
            f'<p class="verdict">{VERDICT_GLYPH[summary.verdict]} '
            f"{html.escape(verdict_words(summary))}</p>",
            f"<p>A <code>{html.escape(side_line(a))}</code><br>",
            f"B <code>{html.escape(side_line(b))}</code></p>",
            "<ul>" + "".join(f"<li>{fact}</li>" for fact in facts) + "</ul>",
            *(_finding_in_html(finding) for finding in _faults(summary)),
            f"<table><tr>{heads}</tr>\n{rows}</table></html>" if rows else "</html>",
        ]
    )


def _facts(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
    escape: Callable[[str], str],
) -> list[str]:
    """Return the sentences above the table; `escape` makes text from files safe in the page."""
    counts = ", ".join(f"{n} {WORD[status]}" for status, n in summary.counts.items() if n)
    tensors = "1 tensor" if len(results) == 1 else f"{len(results)} tensors"
    facts = [f"{tensors}: {counts or 'nothing to compare'}"]
    if pattern is not None:
        facts.append(f"only names that match {escape(printable(pattern))} were compared")
    if summary.config_status != "ignored":
        facts += [
            f"{line.meaning} conflicts: {escape(field_text(line, 'A'))} in A, "
            f"{escape(field_text(line, 'B'))} in B. {line.consequence}"
            + (f" Fix: {escape(printable(line.fix))}" if line.fix else "")
            for line in summary.conflicts
        ]
    rows = listed(results)
    facts += (escape(sentence) for _, sentence in explained(results, summary, a, b))
    facts += map(escape, (*unlisted_notes(results, rows), *hints(summary)))
    for side, assembled in (("A", a), ("B", b)):
        facts += [f"{side}: {escape(printable(line))}" for line in shortfall_lines(assembled)]
        facts += [
            f"{escape(printable(name))} in {side} is known to no rule"
            if count == 1
            else f"{count} names of {escape(printable(name))} in {side} are known to no rule"
            for name, count in unmapped_groups(assembled)[:MAX_ROWS]
        ]
    if len(rows) > MAX_ROWS:
        facts.append(f"the first {MAX_ROWS} of {len(rows)} are listed")
    return facts


def _rows(results: Sequence[TensorDiff]) -> list[tuple[str, ...]]:
    """Return the rows of the table: what differs, then what is close, up to MAX_ROWS."""
    rows: list[tuple[str, ...]] = []
    for row in listed(results)[:MAX_ROWS]:
        if isinstance(row, CloseGroup):
            words = (f"{WORD['close']} {row.why}", "", *_figures(row), "")
            rows.append((GLYPH["close"], row.title, *words))
            continue
        numbers = row.numbers
        shapes = [format_shape(s) for s in (row.shape_a, row.shape_b) if s is not None]
        rows.append(
            (
                GLYPH[row.status],
                printable(row.name),
                f"{WORD[row.status]} {why_close(row)}".strip(),
                " | ".join(dict.fromkeys(shapes)),
                *(_figures(numbers) if numbers else ("", "", "")),
                printable("; ".join(text for text in (row.error, row.note) if text)),
            )
        )
    return rows


def _figures(numbers: Numbers | CloseGroup) -> tuple[str, str, str]:
    return (
        format_number(numbers.max_abs),
        format_number(numbers.rel_l2),
        format_cosine(numbers.cosine),
    )


def _code(text: str) -> str:
    """Return text as a code span that no character in it can end; safe inside a table."""
    text = text.replace("|", "\\|")
    fence = "`" if "`" not in text else "``"
    return f"{fence}{text}{fence}" if text and "``" not in text else html.escape(text)
