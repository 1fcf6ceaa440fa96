"""Scores in words: the state of a run, rows of the table, items, and one item as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.report import score_words as report_words
from ckptdiff.report.score_words import mean_words
from ckptdiff.scores.groups import place_of
from ckptdiff.scores.items import apart, floor_apart
from ckptdiff.scores.paired import choices_of, distance_of, is_flip
from ckptdiff.scores.verdict import item_words
from ckptdiff.text import format_number, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.figures import flow, wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.logits import GLYPHS, ROLES
from ckptdiff.tui.words import fitted, format_duration, format_eta, plural, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import Answers
    from ckptdiff.scores.results import Item, ScoreDiff, ScoreProgress, TaskScore
    from ckptdiff.tui.model.score_run import ScoreRun
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line

NOTHING = (
    "No tasks yet. Type names of tasks of lm-evaluation-harness with commas between them, such as "
    "boolq,hellaswag, or the path of a task's FILE.yaml, and press {}."
)
FLIP = "!"
# Cells from which on a list has these columns.
WITH_METRICS, WITH_GROUPS, WITH_ERRORS, WITH_FLOOR = 58, 90, 100, 74
METRIC, SCORE = 15, 9  # cells


# ── progress and outcome ─────────────────────────────────────────────────────────────────────────


def headline(run: ScoreRun) -> str:
    """Return the progress or the outcome, in one line."""
    if run.state == "failed":
        return f"x {printable(run.error or '')}"
    if run.diff is not None:
        return verdict_words(run.diff)
    if run.state == "stopped":
        return f"Stopped {_how_far(run)}."
    if run.state == "stopping":
        return (
            f"Stopping: what was answered is put together ...   {key('scores.stop', 'x')} drops it."
        )
    if run.progress is None:
        return "Starting the process that computes ..."
    return f"{progress_words(run.progress)}   {key('scores.stop', 'x')} stops."


def verdict_words(diff: ScoreDiff) -> str:
    """Return the verdict of all that was answered."""
    return f"{GLYPHS[diff.verdict]} {printable(diff.sentence)}"


def _how_far(run: ScoreRun) -> str:
    """Return how much was answered of a run that ended early, and what becomes of it."""
    again = key("tasks.run", "Enter")
    progress = run.progress
    if progress is None or not progress.done:
        return f"before any item was answered. {again} at Tasks starts again"
    answered = f"{progress.done:,} of {plural(progress.total, 'question')}"
    goes_on = "goes on from there" if run.keeps else "starts again"
    return f"when {answered} were answered. {again} at Tasks {goes_on}"


def progress_words(progress: ScoreProgress) -> str:
    """Return where a run is: batch, section, questions, rate and the time that is left."""
    doing = printable(progress.doing)
    items = [f"{doing[:1].upper()}{doing[1:]}"]
    if progress.batches:
        items[0] = f"Batch {progress.batch} of {progress.batches}, {doing}"
    if progress.total:
        items.append(f"{progress.done:,} of {plural(progress.total, 'question')}")
    if progress.rate is not None:
        items.append(f"{progress.rate:.3g} a second")
    if progress.left is not None:
        items.append(f"{format_eta(progress.left)} left")
    return ": ".join([items[0], ", ".join(items[1:])]) if items[1:] else f"{items[0]} ..."


def fraction(progress: ScoreProgress) -> float:
    """Return how much is done, 0 to 1: whole questions, and the sections of this batch."""
    if not progress.total:
        return 0.0
    done = progress.done / progress.total
    if progress.batches and progress.sections:
        done = max(
            done, (progress.batch - 1 + progress.section / progress.sections) / progress.batches
        )
    return min(1.0, done)


def outcome_lines(run: ScoreRun, width: int, *, ascii_only: bool) -> list[Line]:
    """Return a progress bar; at the end the verdict, the figures and the notes."""
    if run.is_busy:
        lines = [line((fitted(headline(run), width, ascii_only=ascii_only), ""))]
        if run.progress is not None and run.progress.total:
            filled = int((width - 2) * fraction(run.progress))
            lines.append(line("[", ("#" * filled + "-" * (width - 2 - filled), "bar"), "]"))
        return lines
    has_failed = run.state == "failed"
    lines = wrapped(headline(run), width, "act") if has_failed else []
    if has_failed and run.progress is not None and run.progress.done:
        lines += wrapped(f"It failed {_how_far(run)}.", width, "act")
    if run.diff is None:
        return lines or wrapped(headline(run), width)
    diff = run.diff
    lines += wrapped(verdict_words(diff), width, ROLES[diff.verdict])
    if not diff.complete:
        early = "" if has_failed else f"Stopped {_how_far(run)}. "
        lines += wrapped(f"{early}All that follows is of what was answered.", width, "act")
    if diff.shown_by is not None:
        shown, logits = key("scores.shown", "s"), key("scores.logits", "p")
        item = printable(item_words(diff.shown_by))
        words = f"{shown} goes to {item}, the first that shows it; {logits} compares its logits."
        lines += wrapped(words, width, "strong")
    if diff.verdict == "undecided" and diff.step is not None and diff.dtype != "fp32":
        lines += wrapped(f"dtype fp32 tells which: {key('scores.dtype', 'd')} changes it.", width)
    for fact in () if run.result is None else run.result.facts:
        lines += hanging("- ", fact, width)
    lines += wrapped(mean_words(diff), width, "dim")
    where = f"in {diff.dtype} on {diff.device}, {format_duration(run.seconds)}"
    lines += wrapped(where, width, "dim")
    notes = [f"This holds if {condition}." for condition in diff.conditions]
    notes += [f"Note: {note}" for note in run.notes]
    for note in notes:
        lines += wrapped(printable(note), width)
    return lines


def hanging(mark: str, text: str, width: int) -> list[Line]:
    """Return text broken between words, below itself behind a mark."""
    first, *others = wrapped(printable(text), max(1, width - len(mark))) or [line("")]
    return [line(mark, *first), *(line(" " * len(mark), *each) for each in others)]


# ── the table ────────────────────────────────────────────────────────────────────────────────────


def row_name(row: TaskScore, *, with_group: bool) -> str:
    """Return the task of a row; of the mean of a class, the class, and of what if not beside it."""
    is_class = bool(row.part) and place_of(row.task)[1] != row.part
    name = report_words.row_name(row)
    return f"{printable(row.group)} {name}" if is_class and not with_group else name


def table_widths(width: int, rows: Sequence[TaskScore]) -> tuple[int, int]:
    """Return the cells of the group, which is none in a narrow table, and of the task."""
    group = max([5, *(len(printable(row.group)) for row in rows)])
    group = group + 2 if width >= WITH_GROUPS else 0
    names = (row_name(row, with_group=group > 0) for row in rows)
    longest = max([4, *map(len, names)])
    taken = 1 + group + 3 * (SCORE + 1)
    taken += METRIC + 8 if width >= WITH_METRICS else 0
    taken += 10 if width >= WITH_ERRORS else 0
    return group, max(4, min(longest, width - taken))


def table_head(width: int, widths: tuple[int, int]) -> str:
    return _table_line(
        width, widths, ("group", "task", "metric", "A", "B", "|A-B|/A", "items", "+- of A")
    )


def table_row(row: TaskScore, width: int, widths: tuple[int, int], *, ascii_only: bool) -> str:
    """Return a row of the table: task, metric, both scores, and how far they are apart."""
    group, task = widths
    name = row_name(row, with_group=group > 0)
    _, metric, items, a, b, relative = report_words.row_cells(row)
    cells = (
        fitted(printable(row.group), max(0, group - 2), ascii_only=ascii_only),
        fitted(shorten(name, task, ascii_only=ascii_only), task),
        fitted(metric, METRIC, ascii_only=ascii_only),
        a,
        b,
        relative,
        items,
        "-" if row.stderr is None else f"{row.stderr:.4f}",
    )
    return _table_line(width, widths, cells)


def _table_line(width: int, widths: tuple[int, int], cells: Sequence[str]) -> str:
    """Set those of eight cells side by side that the width has columns for."""
    group, task = widths
    first, name, metric, a, b, relative, items, error = cells
    text = f" {first:<{group}}{name:<{task}}" if group else f" {name:<{task}}"
    text += f" {metric:<{METRIC}}" if width >= WITH_METRICS else ""
    text += f" {a:>{SCORE}} {b:>{SCORE}} {relative:>{SCORE}}"
    text += f" {items:>6}" if width >= WITH_METRICS else ""
    return text + (f" {error:>9}" if width >= WITH_ERRORS else "")


# ── the list of items ────────────────────────────────────────────────────────────────────────────


def item_head(width: int, task: int) -> str:
    """Return the header above the items; the task has this many cells, or none."""
    name = f"{'task':<{task}} " if task else ""
    return fitted(
        f"   {name}{'item':>6} {'A':>3} {'B':>3} {'right':>5} {'|A-B|':>8}  question", width
    )


def item_row(item: Item, width: int, task: int, *, ascii_only: bool) -> str:
    """Return an item: a mark for a flip, both sides' choices, the right one, the distance."""
    choices = choices_of(item)
    a, b = ("-", "-") if choices is None else (str(choices[0] + 1), str(choices[1] + 1))
    right = "-" if item.target is None else str(item.target + 1)
    name = f"{fitted(printable(item.task), task, ascii_only=ascii_only)} " if task else ""
    distance = format_number(distance_of(item)) if item.answers else "-"
    mark = FLIP if is_flip(item) else " "
    head = f" {mark} {name}{item.doc:>6} {a:>3} {b:>3} {right:>5} {distance:>8}  "
    question = " ".join(item.text.split())
    return head + fitted(printable(question), max(0, width - len(head)), ascii_only=ascii_only)


# ── one item ─────────────────────────────────────────────────────────────────────────────────────


def item_title(item: Item, *, short: bool = False) -> str:
    """Return what the two sides choose, in one line."""
    choices = choices_of(item)
    if choices is None:
        return "a text, whose windows are scored" if item.kind == "rolling" else "one answer"
    a, b = choices
    mark = f"{FLIP} " if a != b else ""
    if short:
        star = "" if item.target is None else f" *{item.target + 1}"
        return f"{mark}A {a + 1} B {b + 1}{star}"
    right = "" if item.target is None else f", right is {item.target + 1}"
    if a == b:
        return f"both choose {a + 1}{right}"
    return f"{mark}flip: A chooses {a + 1}, B {b + 1}{right}"


def question_lines(item: Item, width: int) -> list[Line]:
    """Return the question as the model reads it, with its line breaks."""
    lines: list[Line] = []
    for each in item.text.splitlines():
        lines += wrapped(printable(each), width) or [line("")]
    return lines


def choice_head(width: int) -> str:
    """Return the header above the answers of an item."""
    return _choice_line(width, ("#", "chosen", "right", "A", "B", "|A-B|", "floor"))


def choice_row(item: Item, number: int, width: int, *, ascii_only: bool) -> str:
    """Return one answer of an item: who chooses it, and both log-likelihoods."""
    answers = item.answers[number]
    choices = choices_of(item) or (-1, -1)
    who = [side for side, at in zip("AB", choices, strict=True) if at == number]
    cells = (
        str(number + 1),
        " ".join(who),
        "right" if number == item.target else "",
        f"{answers.a.loglik:.5f}",
        f"{answers.b.loglik:.5f}",
        format_number(apart(answers)),
        format_number(floor_apart(answers)),
    )
    head = _choice_line(width, cells)
    words = printable(answer_text(item, number))
    return head + fitted(words, max(0, width - len(head)), ascii_only=ascii_only)


def answer_text(item: Item, number: int) -> str:
    """Return the text of an answer; of a rolling text, which window it is."""
    if item.kind == "rolling":
        return f"window {number + 1}"
    if number < len(item.choices):
        return f"'{item.choices[number]}'"
    return f"{number - len(item.choices) + 1} without the question"  # asked for acc_mutual_info


def _choice_line(width: int, cells: Sequence[str]) -> str:
    """Set those of seven cells side by side that the width has columns for."""
    number, who, right, a, b, distance, floor = cells
    if width < WITH_METRICS:
        who = "A/B" if who == "chosen" else who
        return f" {number:>2} {who:<3} {'*' * bool(right)}{' ' * (not right)} {a:>10} {b:>10} "
    text = f" {number:>3} {who:<6} {right:<5} {a:>11} {b:>11} {distance:>8}"
    return text + (f" {floor:>8}  " if width >= WITH_FLOOR else "  ")


def answer_lines(item: Item, number: int, width: int) -> list[Line]:
    """Return the answer under the cursor in full, and what each side gives for it."""
    answers = item.answers[number]
    lines = wrapped(f"{number + 1}: {printable(answer_text(item, number))}", width, "strong")
    lines += flow([*answer_items(answers, item.questions[number].answer), *_metrics(item)], width)
    return lines


def answer_items(answers: Answers, tokens: int) -> list[str]:
    """Return what both sides give for an answer of so many tokens."""
    greedy = {
        (True, True): "greedy on both sides",
        (True, False): "greedy in A alone",
        (False, True): "greedy in B alone",
        (False, False): "not greedy",
    }[answers.a.is_greedy, answers.b.is_greedy]
    return [
        plural(tokens, "token"),
        f"A {answers.a.loglik:.5f} B {answers.b.loglik:.5f} nats",
        f"|A-B| {format_number(apart(answers))}, floor {format_number(floor_apart(answers))}",
        f"logits apart {format_number(answers.apart)}, floor {format_number(answers.floor_apart)}",
        greedy,
    ]


def _metrics(item: Item) -> list[str]:
    b = dict(item.scores_b)
    return [
        f"{printable(name)} A {report_words.score(value)} B {report_words.score(b[name])}"
        for name, value in item.scores_a
        if name in b
    ]


# ── text to copy, and why a key does nothing ─────────────────────────────────────────────────────


def text_to_copy(run: ScoreRun) -> str:
    """Return the verdict, the figures and the table as plain text."""
    lines = [headline(run)] if run.error is not None else []
    if run.result is not None:
        lines += [verdict_words(run.result.diff), *run.result.facts]
    lines += (
        "\t".join(
            (row.group, row.part, row.task, row.metric, repr(row.a), repr(row.b),
             report_words.percent(row.relative), str(row.items))
        )
        for row in run.tasks
    )  # fmt: skip
    return "\n".join(map(printable_row, lines))


def printable_row(text: str) -> str:
    """Return a row of text safe to print, with its tabs."""
    return "\t".join(map(printable, text.split("\t")))


def item_to_copy(item: Item) -> str:
    """Return an item as plain text: question, answers and what both sides give for them."""
    lines = [f"{item.task} {item.doc}: {item_title(item)}", item.text]
    lines += (
        choice_row(item, number, 10_000, ascii_only=False).rstrip()
        for number in range(len(item.answers))
    )
    return "\n".join(printable(each) for text in lines for each in text.splitlines())


def why_not_scores(session: Session, run: ScoreRun | None, action: str) -> str | None:
    """Return why an action on the comparison of scores is disabled now; None if it is enabled."""
    if action == "ask" and session.b is None:
        return "Both checkpoints have to be open first."
    if action == "stop" and (run is None or not run.is_busy):
        return "Stop: nothing is running."
    if action == "copy_table" and (run is None or not run.tasks):
        return "There is no result yet."
    if action == "shown" and (run is None or run.diff is None or run.diff.shown_by is None):
        return "No item shows a difference of weights or config."
    if action == "copy_command" and run is None:
        return "There are no tasks yet."
    return None
