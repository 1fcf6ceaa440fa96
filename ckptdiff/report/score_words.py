"""What a comparison of scores tells, as cells and sentences: for the terminal and for a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptdiff.scores.expected import expected
from ckptdiff.scores.groups import BIGBENCH, is_share, main_rows, table
from ckptdiff.scores.paired import choices_of, distances, needed
from ckptdiff.scores.verdict import item_words, worst_question
from ckptdiff.text import format_number, operand, plural, printable, shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.scores.expected import Expected
    from ckptdiff.scores.paired import Needed
    from ckptdiff.scores.published import Published, PublishedRow
    from ckptdiff.scores.results import Item, Paired, ScoreDiff, TaskScore

MAX_IDS = 2048  # of a prompt whose command is printed
MAX_CHOICES = 6
_TEXT = 240  # characters of a question, its end
_CHOICE = 32  # characters of an answer
_SURE = 0.05  # chance at which a share of items that would differ is still not ruled out


# ── the table ────────────────────────────────────────────────────────────────────────────────────


def row_cells(row: TaskScore) -> tuple[str, ...]:
    """Return a row's name, metric, number of items, A, B and |A-B| / A."""
    return (
        row_name(row),
        printable(row.metric),
        f"{row.items:,}",
        score(row.a),
        score(row.b),
        percent(row.relative),
    )


def row_name(row: TaskScore) -> str:
    """Return a task's name without what its group's heading says."""
    name = row.task
    if row.group == BIGBENCH:
        name = name.removeprefix("bigbench_").removesuffix("_multiple_choice") or name
    return printable(name)


def score(value: float) -> str:
    """Return a score with four decimals, a large one with five digits."""
    return f"{value:.4f}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:.4e}"


def percent(share: float | None) -> str:
    """Return a share in percent; `0.00%` is exactly nothing."""
    if share is None:
        return "-"
    return "<0.01%" if 0 < share < 0.00005 else f"{100 * share:.2f}%"


def mean_words(found: ScoreDiff) -> str:
    """Return the mean of |A-B| / A in words, and what it leaves out."""
    rows = main_rows(found.tasks)
    no_share = [row for row in rows if not is_share(row)]
    none_right = [row for row in rows if is_share(row) and row.relative is None]
    why = "".join(
        f"; without {_some(left_out)} ({reason})"
        for left_out, reason in (
            (no_share, "the metric is no share of right answers"),
            (none_right, "A has none right"),
        )
        if left_out
    )
    if found.mean is None:
        return f"no task has a part in a mean of |A-B|/A{why}"
    counted = len(rows) - len(no_share) - len(none_right)
    return f"mean of |A-B|/A over {plural(counted, 'task')}: {percent(found.mean)}{why}"


def _some(rows: list[TaskScore]) -> str:
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return ", ".join(printable(row.task) for row in rows[:3]) + more


def not_run(found: ScoreDiff, beside: Published) -> list[PublishedRow]:
    """Return the rows of a published table that have no counterpart here."""
    run = [beside.beside(row) for group in table(found.tasks) for row in group.rows]
    return [row for row in beside.rows if row not in run]


def published_words(beside: Published) -> str:
    """Return what a published table is, with its source."""
    return (
        f"{', '.join(beside.columns)}: {beside.title}, mean {beside.mean:.2f}% over all. They are "
        f"no part of the verdict. Source: {beside.source}"
    )


# ── what the table does not show ─────────────────────────────────────────────────────────────────


def facts(found: ScoreDiff) -> Iterator[str]:
    """Yield what the items tell beyond the accuracies, a sentence each."""
    apart = distances(found.items)
    if apart is None:
        return
    for letter, broken in zip("AB", _without_numbers(found.items), strict=True):
        if broken:
            yield (
                f"{letter}'s log-likelihoods are no numbers in {broken:,} of "
                f"{plural(len(found.items), 'item')}: its choices and scores there mean nothing."
            )
    yield (
        f"Log-likelihoods of an item are at most {_nats(apart.largest)} nats apart, median "
        f"{_nats(apart.median)}; by the floor (A's weights in B's arithmetic) at most "
        f"{_nats(apart.floor_largest)}, median {_nats(apart.floor_median)}."
    )
    if found.paired is None:
        yield "No item has choices, so there is nothing to flip and no accuracy to test."
        return
    yield from _choice_facts(found.paired)
    if any(row.metric == "acc_norm" for row in found.tasks):
        yield "That is of the choices of acc; acc_norm divides by the answer's length first."
    if (rounding := expected(found.items)) is not None:
        yield _expected_fact(rounding)
    yield from _test_facts(found.paired)
    count = sum(choices_of(item) is not None for item in found.items)
    if (need := needed(found.items)) is not None:
        yield from _need_facts(need, count)


def _without_numbers(items: Sequence[Item]) -> tuple[int, int]:
    """Return how many items A, and B, gave a log-likelihood that is no number."""
    sides = (
        [[one.a for one in item.answers] for item in items],
        [[one.b for one in item.answers] for item in items],
    )
    a, b = (sum(any(math.isnan(one.loglik) for one in some) for some in side) for side in sides)
    return a, b


def _choice_facts(pair: Paired) -> Iterator[str]:
    flips = plural(pair.flips, "flip")
    beyond = pair.flips - pair.flips_within
    if pair.flips:
        flips += (
            f", {pair.flips_within} within the margin that the floor can close, {beyond} beyond it"
        )
    yield (
        f"Both sides choose the same in {pair.agree:,} of {plural(pair.items, 'item')}: {flips}."
    )
    yield f"At distances like these, {pair.could_flip:,} of {pair.items:,} could flip at all."


def _expected_fact(rounding: Expected) -> str:
    mean = ""
    if rounding.relative is not None:
        mean = f" and a mean of |A-B|/A over tasks of {percent(rounding.relative)}"
    count = rounding.flips
    flips = f"{count:,.0f}" if count >= 10 else f"{count:.2g}"
    return f"Of rounding alone, by the floor, {flips} flips{mean} are expected."


def _test_facts(pair: Paired) -> Iterator[str]:
    if math.isnan(pair.difference):
        yield "No right answer is known, so there is no accuracy to test."
        return
    yield (
        f"Right on one side alone: {pair.a_alone_right:,} in A, {pair.b_alone_right:,} in B. "
        f"McNemar's exact test: p = {pair.mcnemar:.2g}."
    )
    if math.isnan(pair.stderr_paired):
        yield "One item has no standard error."
        return
    yield (
        f"Over all of them, A's accuracy less B's: {pair.difference:+.4f}, standard error "
        f"{pair.stderr_paired:.4f} paired, {pair.stderr_unpaired:.4f} unpaired (as it is mostly "
        "quoted)."
    )
    if math.isfinite(pair.effective_items):
        yield (
            f"Asking both sides the same makes these items worth {round(pair.effective_items):,} "
            "unpaired ones."
        )
    elif not pair.a_alone_right + pair.b_alone_right:
        bound = 1 - _SURE ** (1 / pair.items)
        yield (
            "No item tells the sides apart, so the paired error is 0, which says little: if up to "
            f"{percent(bound)} of all such items did, {plural(pair.items, 'item')} may still show "
            "none (95 %)."
        )


def _need_facts(need: Needed, count: int) -> Iterator[str]:
    least = need.accuracy * need.relative
    assumed = (
        f"with {percent(need.alone)} of the items right on one side alone, as here"
        if need.alone > least
        else f"if no more than {percent(least)} are right on one side alone, the least possible"
    )
    yield (
        f"To see {percent(need.relative)} of A's accuracy ({need.accuracy:.4f}) 4 times of 5: "
        f"{need.paired:,} items asked of both, {assumed}; {need.unpaired:,} a side unpaired. "
        f"Here: {count:,}."
    )


def _nats(value: float) -> str:
    return format_number(value) if value < 0.01 or not math.isfinite(value) else f"{value:.2f}"


# ── one item ─────────────────────────────────────────────────────────────────────────────────────


def item_title(item: Item) -> str:
    """Return which item it is and the end of what is asked, in a line of text."""
    text = " ".join(item.text.split())
    cut = f"…{text[-_TEXT:]}" if len(text) > _TEXT else text
    return printable(f"{item_words(item)}: {cut}" if cut else item_words(item))


def choice_rows(item: Item) -> list[tuple[str, str, str, str]]:
    """Return an item's answers: the sides that choose it, its text, A's and B's log-likelihood."""
    chosen = choices_of(item)
    rows = []
    for number, (answer, text) in enumerate(zip(item.answers, item.choices, strict=False)):
        marks = "".join(
            side if chosen is not None and chosen[place] == number else " "
            for place, side in enumerate("AB")
        )
        words = printable(" ".join(text.split()))
        words = f"{words[: _CHOICE - 1]}…" if len(words) > _CHOICE else words
        rows.append((marks, words, f"{answer.a.loglik:.4f}", f"{answer.b.loglik:.4f}"))
    return rows[:MAX_CHOICES]


def ids_of(item: Item, number: int) -> list[int]:
    """Return the token ids of one of an item's questions, its answer included."""
    return memoryview(item.questions[number].ids).cast("i").tolist()


def logits_command(a: Assembled, b: Assembled, item: Item) -> str | None:
    """Return the command that looks into an item's worst question; None if it is too long."""
    if not item.questions:
        return None
    ids = ids_of(item, worst_question(item))
    if len(ids) > MAX_IDS:
        return None
    paths = shell_line(operand(side.checkpoint.root) for side in (a, b))
    return f"ckptdiff logits {paths} --ids {','.join(map(str, ids))}"
