"""The result of `ckptdiff scores` as a JSON document and as lines of text."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from ckptdiff.report.diff import side_document, side_line
from ckptdiff.report.logits import WIDTH, cells, padded, plain_json, share_lines, shares, wrapped
from ckptdiff.report.score_words import (
    MAX_CHOICES,
    choice_rows,
    facts,
    ids_of,
    item_title,
    logits_command,
    mean_words,
    not_run,
    published_words,
    row_cells,
)
from ckptdiff.scores.expected import expected
from ckptdiff.scores.groups import main_rows, table
from ckptdiff.scores.paired import choices_of, distances, is_flip, margin_of, needed
from ckptdiff.scores.verdict import answered_words, place, worst_question
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import Answer, Answers, StepApart
    from ckptdiff.scores.published import Published, PublishedRow
    from ckptdiff.scores.results import Item, ScoreDiff, ScoreVerdict, TaskScore

VERDICT_GLYPH: dict[ScoreVerdict, str] = {
    "arithmetic": "=",
    "undecided": "?",
    "weights-or-config": "✗",
}
_HEADS = ("task", "metric", "items", "A", "B", "|A-B|/A")
_ITEMS = _HEADS.index("items")


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────


def score_document(
    a: Assembled, b: Assembled, found: ScoreDiff, beside: Published | None = None
) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff scores`, schema `ckptdiff.scores/1`."""
    apart, need, rounding = distances(found.items), needed(found.items), expected(found.items)
    main = set(main_rows(found.tasks))
    document: dict[str, Any] = plain_json(
        {
            "schema": "ckptdiff.scores/1",
            "a": side_document(a),
            "b": side_document(b),
            "verdict": found.verdict,
            "sentence": found.sentence,
            "complete": found.complete,
            "dtype": found.dtype,
            "device": found.device,
            "tasks": [_row_document(row, is_main=row in main) for row in found.tasks],
            "groups": [
                {"group": group.name, "rows": [_row_document(row) for row in group.rows]}
                for group in table(found.tasks)
            ],
            "mean": found.mean,
            "distances": None if apart is None else asdict(apart),
            "paired": None if found.paired is None else asdict(found.paired),
            "expected": None if rounding is None else asdict(rounding),
            "needed": None if need is None else asdict(need),
            "step": None if found.step is None else _step_document(found.step),
            "shown_by": None if found.shown_by is None else _shown_document(a, b, found.shown_by),
            "items": [_item_document(item) for item in found.items],
            "attribution": [asdict(share) for share in shares(found.attribution)],
            "budget": None if found.budget is None else asdict(found.budget),
            "conditions": found.conditions,
            "notes": found.notes,
            "beside": None if beside is None else asdict(beside),
        }
    )
    return document


def _row_document(row: TaskScore, *, is_main: bool = True) -> dict[str, Any]:
    return {**asdict(row), "relative": row.relative, "main": is_main}


def _step_document(step: StepApart) -> dict[str, Any]:
    return {"layer": step.layer, "name": step.name, "rel": step.rel, "reads": step.reads}


def _shown_document(a: Assembled, b: Assembled, item: Item) -> dict[str, Any]:
    number = worst_question(item)
    return {
        "task": item.task,
        "doc": item.doc,
        "question": number,
        "ids": ids_of(item, number),
        "command": logits_command(a, b, item),
    }


def _item_document(item: Item) -> dict[str, Any]:
    chosen = choices_of(item)
    return {
        "task": item.task,
        "doc": item.doc,
        "kind": item.kind,
        "text": item.text,
        "choices": item.choices,
        "target": item.target,
        "chosen_a": None if chosen is None else chosen[0],
        "chosen_b": None if chosen is None else chosen[1],
        "flip": is_flip(item),
        "margin": None if chosen is None else margin_of(item),
        "answers": [_answers_document(answers) for answers in item.answers],
        "scores_a": dict(item.scores_a),
        "scores_b": dict(item.scores_b),
    }


def _answers_document(answers: Answers) -> dict[str, Any]:
    sides: dict[str, Answer] = {"a": answers.a, "floor": answers.floor, "b": answers.b}
    return {
        **{name: asdict(side) for name, side in sides.items()},
        "floor_apart": answers.floor_apart,
        "weights_apart": answers.weights_apart,
        "apart": answers.apart,
    }


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


def score_lines(
    a: Assembled,
    b: Assembled,
    found: ScoreDiff,
    *,
    seconds: float | None = None,
    beside: Published | None = None,
) -> Iterator[str]:
    """Yield the lines that `ckptdiff scores` prints, the answer first."""
    answered = answered_words(found.items)
    if not found.complete:
        yield from wrapped(f"Stopped: all that follows is of {answered}.", "!  ", "   ")
    yield from wrapped(found.sentence, f"{VERDICT_GLYPH[found.verdict]}  ", "   ")
    if found.verdict == "undecided" and found.step is not None:
        yield "   --dtype fp32 tells which"
    if found.step is not None and found.step.reads:
        yield f"   {place(found.step)} reads"
        yield from (f"     {printable(name)}" for name in found.step.reads)
    yield ""
    yield f"A  {side_line(a)}"
    yield f"B  {side_line(b)}"
    yield ""
    yield from _table_lines(found, beside)
    if found.items:
        yield ""
        yield "   What the table does not show"
        for fact in facts(found):
            yield from wrapped(fact, "   - ", "     ")
    if found.shown_by is not None:
        yield ""
        yield from _item_lines(a, b, found.shown_by)
    if found.attribution:
        yield ""
        yield from share_lines(found.attribution)
    if found.conditions or found.notes:
        yield ""
    for condition in found.conditions:
        yield from wrapped(f"This holds if {condition}.", "   ", "   ")
    for note in found.notes:
        yield from wrapped(note, "   ", "   ")
    yield ""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    yield f"{answered} in {found.dtype} on {found.device}{took}"
    yield f"verdict: {found.verdict}{'' if found.complete else ', of what was answered'}"


def _table_lines(found: ScoreDiff, beside: Published | None) -> Iterator[str]:
    groups = table(found.tasks)
    if not groups:
        yield "   no task has a score"
        return
    rows = [
        (group.name, (*row_cells(row), *_published_cells(row, beside)))
        for group in groups
        for row in group.rows
    ]
    heads = (*_HEADS, *(beside.columns if beside is not None else ()))
    lines = [*_aligned([heads, *(cells for _, cells in rows)], is_narrow=beside is not None)]
    yield lines[0]
    previous = ""
    for (group_name, _), line in zip(rows, lines[1:], strict=True):
        if group_name != previous:
            yield f"   {printable(group_name)}"
        previous = group_name
        yield line
    yield from wrapped(mean_words(found), "   ", "     ")
    if beside is not None:
        yield from _beside_lines(not_run(found, beside), beside)


def _beside_lines(others: Sequence[PublishedRow], beside: Published) -> Iterator[str]:
    yield from wrapped(published_words(beside), "   ", "     ")
    if others:
        yield "   published, but not asked here"
    width = max((len(row.name) for row in others), default=0)
    for row in others:
        yield f"     {row.name:{width}}" + "".join(f"  {value:5.2f}%" for value in row.percent)


def _published_cells(row: TaskScore, beside: Published | None) -> tuple[str, ...]:
    if beside is None:
        return ()
    found = beside.beside(row)
    return tuple("-" for _ in beside.columns) if found is None else _percents(found)


def _percents(row: PublishedRow) -> tuple[str, ...]:
    return tuple(f"{value:.2f}%" for value in row.percent)


def _aligned(rows: Sequence[Sequence[str]], *, is_narrow: bool) -> Iterator[str]:
    """Yield rows of cells below each other; names are shortened where 80 columns ask for it."""
    if is_narrow:  # the numbers of items make room
        rows = [(*row[:_ITEMS], *row[_ITEMS + 1 :]) for row in rows]
    between = " " if is_narrow else "  "
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    rest = sum(len(between) + width for width in widths[1:])
    widths[0] = max(8, min(widths[0], WIDTH - 4 - rest))
    for row in rows:
        name, metric, *figures = row
        columns = [_shortened(name, widths[0]).ljust(widths[0]), metric.ljust(widths[1])]
        columns += [cell.rjust(width) for cell, width in zip(figures, widths[2:], strict=True)]
        yield f"    {between.join(columns)}".rstrip()


def _shortened(text: str, width: int) -> str:
    """Return text without its middle if it is too long: names differ at both ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _item_lines(a: Assembled, b: Assembled, item: Item) -> Iterator[str]:
    yield "   The first item that shows it"
    title = item_title(item)
    width = WIDTH // 2 if any(east_asian_width(c) in "WF" for c in title) else WIDTH
    yield from textwrap.wrap(title, width, initial_indent="   ", subsequent_indent="     ")
    rows = choice_rows(item)
    if rows:
        heads = ("  ", "log-likelihood", "A", "B")
        widths = [max(cells(row[n]) for row in [heads, *rows]) for n in range(len(heads))]
        for marks, words, one, other in [heads, *rows]:
            yield (
                f"     {marks} {padded(words, widths[1])}  {one.rjust(widths[2])}"
                f"  {other.rjust(widths[3])}"
            ).rstrip()
        if len(item.choices) > MAX_CHOICES:
            yield f"     … and {len(item.choices) - MAX_CHOICES} more; --json FILE lists all"
    command = logits_command(a, b, item)
    if command is not None:
        yield f"   {command}"
    elif item.questions:
        yield "   --json FILE has its token ids, for `ckptdiff logits A B --ids`"
