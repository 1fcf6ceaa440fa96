"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import html
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from ckptdiff import __version__
from ckptdiff.assembly.packed import tensors_and_bytes
from ckptdiff.config.compare import field_text
from ckptdiff.report.displaced_plot import picture
from ckptdiff.report.drawings import dot_plot, heat_map, overview, worst_with_map
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
from ckptdiff.report.statuses import VERDICT_GLYPH
from ckptdiff.text import format_bytes, html_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding, TensorDiff

_LONG = 4  # headings, from which on there is a table of contents
_NUMBER_COLUMNS = ("max abs", "rel L2", "cosine")


def html_page(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
    *,
    at: datetime | None = None,
) -> str:
    """Return the page; `at` is when it is made, now if it is not given."""
    style, script = (
        files(__package__).joinpath(f"page.{kind}").read_text() for kind in ("css", "js")
    )
    date = (at or datetime.now().astimezone()).strftime("%Y-%m-%d %H:%M %Z").strip()
    sections = list(_sections(results, summary))
    if (joint := joint_fix_of(a, b, summary)) is not None:
        title = joint_title(joint)
        title = f"{title[0].upper()}{html_text(title[1:])}"
        sections.insert(0, (title, _command(joint.command, "all")))
    contents = "".join(
        f'<li><a href="#s{number}">{title}</a></li>' for number, (title, _) in enumerate(sections)
    )
    more = verdict_words(summary).removeprefix(summary.verdict).lstrip("; :")
    said = facts(a, b, results, summary, pattern, html_text)
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>ckptdiff: {summary.verdict}</title><style>{style}</style></head><body>",
            f'<header><p class="made">ckptdiff {__version__} · {html_text(date)}</p>',
            f'<h1><span class="verdict {summary.verdict}">{VERDICT_GLYPH[summary.verdict]} '
            f"{summary.verdict}</span> {html_text(more)}</h1></header>",
            f'<div class="sides">{_side("A", a)}{_side("B", b)}</div>',
            f"<ul>{''.join(f'<li>{fact}</li>' for fact in said)}</ul>",
            f"<nav><ol>{contents}</ol></nav>" if len(sections) >= _LONG else "",
            *(
                f'<section id="s{number}"><h2>{title}</h2>{content}</section>'
                for number, (title, content) in enumerate(sections)
            ),
            f"<script>{script}</script></body></html>",
        ]
    )  # fmt: skip


def _digest(text: str) -> str:
    """Return what a content security policy calls an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _side(letter: str, side: Assembled) -> str:
    """Return what a side is: its path, format, family, parallel sizes, tensors and bytes."""
    checkpoint, size = side.checkpoint, side.checkpoint.parallelism
    count, packed, nbytes = tensors_and_bytes(side)
    rows = [("format", checkpoint.format), ("family", side.family or "not known")]
    if checkpoint.convention != "hf":
        sizes = (("TP", size.tp), ("PP", size.pp), ("VPP", size.vpp), ("EP", size.ep))
        shown = [f"{name} {n}" for name, n in sizes if n > 1 or name in ("TP", "PP")]
        rows.append(("parallel", ", ".join(shown)))
    if checkpoint.iteration is not None:
        rows.append(("iteration", str(checkpoint.iteration)))
    rows.append(("tensors", f"{count:,}" + (f", {packed:,} of them packed" if packed else "")))
    rows.append(("size", format_bytes(nbytes)))
    rows += [("note", printable(note)) for note in (*checkpoint.notes, *side.notes)]
    path = html_text(str(checkpoint.root))
    role = "A, the reference" if letter == "A" else letter
    return f'<article><h2>{role}</h2><p class="path">{path}</p>{_list(rows)}</article>'


def _list(rows: Sequence[tuple[str, str]]) -> str:
    """Return (label, text) as a list of definitions."""
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{html_text(v)}</dd>' for k, v in rows)}</dl>"


def _sections(results: Sequence[TensorDiff], summary: DiffSummary) -> Iterator[tuple[str, str]]:
    """Yield (title, content) of what has a heading, as HTML."""
    for number, finding in enumerate(faults(summary)):
        title = (
            f'<span class="kind {finding.severity}">{finding.kind}</span> '
            f"{html_text(finding.title)}"
        )
        yield title, _finding(finding, results, f"f{number}")
    for number, line in enumerate(conflicts_of(summary)):
        title = f'<span class="kind fault">CONFIG</span> {html_text(line.meaning)}'
        yield title, _conflict(line, f"c{number}")
    if picture_of_all := overview(results):
        yield "Where it differs, by layer", picture_of_all
    if rows := rows_of(results):
        yield "Tensors that are not the same", _table(rows)


def _finding(finding: Finding, results: Sequence[TensorDiff], name: str) -> str:
    parts = [_list(facts_of(finding))]
    if finding.fix is not None:
        parts.append(_command(finding.fix, name))
    figures = []
    if finding.displaced is not None:
        moved = finding.displaced
        figures.append(dot_plot(moved))
        if moved.unit not in ("row", "column"):
            lines = "\n".join(map(printable, picture(moved)))
            figures.append(f"<pre>{html.escape(lines)}</pre>")
    worst = worst_with_map(results, finding.tensors)
    if worst is not None and worst.numbers is not None and (drawn := heat_map(worst.numbers)):
        title = html_text(worst.name)
        figures.append(f"<figure>{drawn}<figcaption>largest |a-b| in {title}</figcaption></figure>")
    return "".join(parts) + (f'<div class="figures">{"".join(figures)}</div>' if figures else "")


def _conflict(line: ConfigDiff, name: str) -> str:
    rows = [("A", field_text(line, "A")), ("B", field_text(line, "B"))]
    if line.consequence:
        rows.append(("Effect", line.consequence))
    return _list(rows) + (_command(line.fix, name) if line.fix else "")


def _command(text: str, name: str) -> str:
    """Return a command below what to do with it, and a button that copies it."""
    return (
        f'<div class="command"><p>{html_text(fix_label(text))}'
        f'<button hidden data-of="{name}">Copy</button></p>'
        f'<pre id="{name}">{html_text(text)}</pre></div>'
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    kinds = [' class="number"' if head in _NUMBER_COLUMNS else "" for head in HEADS]
    heads = "".join(f"<th{kind}>{head}</th>" for head, kind in zip(HEADS, kinds, strict=True))
    lines = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{html_text(cell)}</td>"
                         for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f'<div class="wide"><table><tr>{heads}</tr>\n{lines}</table></div>'
