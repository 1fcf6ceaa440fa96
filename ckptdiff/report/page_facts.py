"""What the pages say, in whatever markup: the facts, the findings and the rows of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.assembly.shortfall_words import shortfall_lines
from ckptdiff.report.diff import hints
from ckptdiff.report.finding import said as said_of
from ckptdiff.report.listed import (
    CloseGroup,
    explained,
    hash_lines,
    listed,
    unlisted_notes,
    why_close,
)
from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.report.unmapped import unmapped_groups
from ckptdiff.text import format_cosine, format_number, format_shape, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding, Numbers, TensorDiff

MAX_ROWS = 1000  # differing tensors on a page; the JSON has all
HEADS = ("", "tensor", "status", "shape", "max abs", "rel L2", "cosine", "note")


def faults(summary: DiffSummary) -> list[Finding]:
    """Return the findings but those about the config, which have lines of their own."""
    return [finding for finding in summary.findings if finding.kind != "CONFIG"]


def facts_of(finding: Finding) -> list[tuple[str, str]]:
    """Return (label, text) of the facts of a finding but the fix, which is a block of its own."""
    return [(label, printable(text)) for label, text in said_of(finding) if text != finding.fix]


def conflicts_of(summary: DiffSummary) -> tuple[ConfigDiff, ...]:
    """Return the conflicts of the configs, unless they are not to be judged."""
    return () if summary.config_status == "ignored" else tuple(summary.conflicts)


def fix_label(fix: str) -> str:
    """Return what is to be done with a fix: it is a command, or arguments of Megatron-LM."""
    return "Add to Megatron-LM's arguments" if fix.startswith("--") else "This command mends it"


def facts(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    pattern: str | None,
    escape: Callable[[str], str],
) -> list[str]:
    """Return the sentences above the table; `escape` makes text safe in the page."""
    counts = ", ".join(f"{n} {WORD[status]}" for status, n in summary.counts.items() if n)
    tensors = "1 tensor" if len(results) == 1 else f"{len(results)} tensors"
    said = [f"{tensors}: {counts or 'nothing to compare'}"]
    if pattern is not None:
        said.append(f"only names that match {escape(printable(pattern))} were compared")
    rows = listed(results)
    said += (escape(sentence) for _, sentence in explained(results, summary, a, b))
    said += map(escape, (*unlisted_notes(results, rows), *hash_lines(summary), *hints(summary)))
    for side, assembled in (("A", a), ("B", b)):
        said += [f"{side}: {escape(printable(line))}" for line in shortfall_lines(assembled)]
        said += [
            f"{escape(printable(name))} in {side} is known to no rule"
            if count == 1
            else f"{count} names of {escape(printable(name))} in {side} are known to no rule"
            for name, count in unmapped_groups(assembled)[:MAX_ROWS]
        ]
    if len(rows) > MAX_ROWS:
        said.append(f"the first {MAX_ROWS} of {len(rows)} are listed")
    return said


def rows_of(results: Sequence[TensorDiff]) -> list[tuple[str, ...]]:
    """Return the rows of the table: what differs, then what is close, up to MAX_ROWS."""
    rows: list[tuple[str, ...]] = []
    for row in listed(results)[:MAX_ROWS]:
        if isinstance(row, CloseGroup):
            words = (f"{WORD['close']} {row.why}", "", *_figures_of(row), "")
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
                *(_figures_of(numbers) if numbers else ("", "", "")),
                printable("; ".join(text for text in (row.error, row.note) if text)),
            )
        )
    return rows


def _figures_of(numbers: Numbers | CloseGroup) -> tuple[str, str, str]:
    return (
        format_number(numbers.max_abs),
        format_number(numbers.rel_l2),
        format_cosine(numbers.cosine),
    )
