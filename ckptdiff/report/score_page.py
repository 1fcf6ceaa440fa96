"""The result of `ckptdiff scores` in Markdown, as GitHub reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.report.diff import side_line
from ckptdiff.report.logits import shares
from ckptdiff.report.markdown_page import block, cell, code, prose
from ckptdiff.report.score_words import (
    choice_rows,
    facts,
    item_title,
    logits_command,
    mean_words,
    not_run,
    published_words,
    row_cells,
)
from ckptdiff.scores.groups import table
from ckptdiff.scores.verdict import answered_words
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.scores.published import Published
    from ckptdiff.scores.results import Item, ScoreDiff

_HEADS = ("task", "metric", "items", "A", "B", "|A-B|/A")


def score_page(
    a: Assembled, b: Assembled, found: ScoreDiff, beside: Published | None = None
) -> str:
    """Return the report in Markdown."""
    return "\n".join(_lines(a, b, found, beside)) + "\n"


def _lines(a: Assembled, b: Assembled, found: ScoreDiff, beside: Published | None) -> Iterator[str]:
    answered = answered_words(found.items)
    yield from (f"# ckptdiff scores: {found.verdict}", "")
    if not found.complete:
        yield from (f"**Stopped: all that follows is of {answered}.**", "")
    yield from (prose(printable(found.sentence)), "")
    yield f"- A: {code(side_line(a))}"
    yield f"- B: {code(side_line(b))}"
    yield f"- {answered} in {found.dtype} on {prose(found.device)}"
    yield from (f"- This holds if {prose(printable(words))}." for words in found.conditions)
    yield ""
    yield from _table(found, beside)
    if found.items:
        yield from ("## What the table does not show", "")
        yield from (f"- {prose(fact)}" for fact in facts(found))
        yield ""
    if found.shown_by is not None:
        yield from _item(a, b, found.shown_by)
    if found.attribution:
        yield from ("## What rounding makes of the difference", "", *_heads(("cause", "share")))
        for share in shares(found.attribution):
            words = "exactly 0" if share.share == 0 else f"{100 * share.share:.1f}%"
            note = f" ({share.note})" if share.note else ""
            yield f"| {prose(printable(share.cause + note))} | {words} |"
        yield ""
    if found.notes:
        yield from ("## Notes", "", *(f"- {prose(printable(note))}" for note in found.notes), "")


def _table(found: ScoreDiff, beside: Published | None) -> Iterator[str]:
    columns = beside.columns if beside is not None else ()
    for group in table(found.tasks):
        yield from (f"### {prose(printable(group.name))}", "", *_heads((*_HEADS, *columns)))
        for row in group.rows:
            cells = list(map(cell, row_cells(row)))
            if beside is not None:
                same = beside.beside(row)
                cells += [
                    "-" if same is None else f"{same.percent[n]:.2f}%"
                    for n, _ in enumerate(columns)
                ]
            yield f"| {' | '.join(cells)} |"
        yield ""
    yield from (f"{_capital(prose(mean_words(found)))}.", "")
    if beside is None:
        return
    yield from (
        prose(published_words(beside)).replace(prose(beside.source), f"<{beside.source}>"),
        "",
    )
    others = not_run(found, beside)
    if others:
        yield from ("Published, but not asked here:", "", *_heads(("test", *columns)))
        for other in others:
            figures = " | ".join(f"{value:.2f}%" for value in other.percent)
            yield f"| {cell(other.name)} | {figures} |"
        yield ""


def _item(a: Assembled, b: Assembled, item: Item) -> Iterator[str]:
    yield from ("## The first item that shows it", "", prose(item_title(item)), "")
    rows = choice_rows(item)
    if rows:
        yield from _heads(("chosen by", "answer", "log-likelihood in A", "in B"))
        for marks, words, one, other in rows:
            yield f"| {marks.strip() or '-'} | {cell(words) or '-'} | {one} | {other} |"
        yield ""
    command = logits_command(a, b, item)
    if command is not None:
        yield from block(command, "sh")


def _heads(heads: Sequence[str]) -> tuple[str, str]:
    words = (head.replace("|", "\\|") for head in heads)
    return f"| {' | '.join(words)} |", f"|{' --- |' * len(heads)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
