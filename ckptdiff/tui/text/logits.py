"""The results of a prompt in words: verdict, figures, likeliest tokens, shares of causes."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from rich.cells import cell_len

from ckptdiff.text import format_cosine, format_number, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.figures import flow, wrapped
from ckptdiff.tui.text.finding import finding_words
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.words import fitted, format_duration, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import Candidate, CauseShare, Finding, LogitDiff, LogitMetrics, Next
    from ckptdiff.tui.model.prompt_run import PromptRun
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line

GLYPHS = {"arithmetic": "=", "undecided": "?", "small": "~", "weights-or-config": "!"}
ROLES = {
    "arithmetic": "strong",
    "undecided": "close",
    "small": "close",
    "weights-or-config": "differ",
}
WIDEST_TOKEN = 40  # cells: farther off, its probability would not be found
NOTHING = "No prompt yet. Type one and press {}."


def quoted(text: str, *, ascii_only: bool = False) -> str:
    """Return a token's text in quotes, which show blanks, and without control characters."""
    shown = printable(text)
    return f"'{ascii(shown)[1:-1] if ascii_only else shown}'"


# ── progress and outcome ─────────────────────────────────────────────────────────────────────────


def headline(run: PromptRun) -> str:
    """Return the progress or the outcome, in one line."""
    if run.state == "failed":
        return f"x {printable(run.error or '')}"
    if run.state == "stopped":
        run_again = key("prompt.run", "Enter")
        return f"Stopped. What was found is shown. {run_again} in the prompt runs it again."
    if run.diff is not None:
        return f"{GLYPHS[run.diff.verdict]} {printable(run.diff.sentence)}"
    progress = run.progress
    if run.state == "reading":
        return "Turning the prompt into tokens ..."
    if progress is None:
        return "Starting the process that computes ..."
    doing, each = printable(progress.doing), format_duration(progress.seconds)
    count = f"{progress.done} of {progress.total} done"
    doing = f"{doing[:1].upper()}{doing[1:]}"
    return f"{doing}: {count}, the last in {each}   {key('logits.stop', 'x')} stops."


def outcome_lines(
    run: PromptRun,
    width: int,
    *,
    findings: Sequence[tuple[int, Finding]] = (),
    roomy: bool,
    ascii_only: bool,
) -> list[Line]:
    """Return a progress bar; at the end the verdict, the figures and the notes.

    `findings` are those of the first bad step, each with its number. Unless `roomy`, each note is
    shortened to one line.
    """
    if run.is_busy:
        lines = [line((fitted(headline(run), width, ascii_only=ascii_only), ""))]
        if run.progress is not None:
            done, total = run.progress.done, max(1, run.progress.total)
            filled = (width - 2) * done // total
            bar = "#" * filled + "-" * (width - 2 - filled)
            lines.append(line("[", (bar, "bar"), "]"))
        return lines
    if run.diff is None:
        return wrapped(headline(run), width, "act" if run.state == "failed" else "")
    diff = run.diff
    lines = wrapped(headline(run), width, ROLES[diff.verdict])
    if findings:
        others = f" {len(findings) - 1} more may move this step." if findings[1:] else ""
        words = f"{finding_words(findings[0])} f shows how to mend it.{others}"
        lines += wrapped(words, width, "strong")
    items = metric_items(diff.metrics, len(diff.ids))
    if diff.verdict == "undecided":
        items.insert(0, "without what is not computed:")
    if diff.ratio is not None:
        items.append(f"R {diff.ratio:.2f}")
    where = "" if diff.storage == diff.dtype else f", logits in {diff.storage}"
    items.append(f"in {diff.dtype}{where} on {diff.device}, {format_duration(run.seconds)}")
    lines += flow(items, width, gap=2)
    for number, note in enumerate((*diff.fed, *run.notes)):
        # Other ids come first: the verdict is of a prompt that B does not get.
        is_other = number == 0 and not diff.same_ids
        text, role = f"{'!' if is_other else 'Note:'} {printable(note)}", "act" * is_other
        note_lines = wrapped(text, width, role)
        if not roomy and len(note_lines) > 1 and not is_other:
            note_lines = [line(fitted(text, width, ascii_only=ascii_only))]
        lines += note_lines
    return lines


def metric_items(metrics: LogitMetrics, positions: int) -> list[str]:
    """Return the figures of the logits, each after its name."""
    agree = round(metrics.top1_agree * positions) if isfinite(metrics.top1_agree) else 0
    items = [
        f"max|d| {format_number(metrics.max_abs)}",
        f"rel {format_number(metrics.rel_rms)}",
        f"KL {format_number(metrics.kl_mean)} nats",
        f"cos {format_cosine(metrics.cosine_min)}",
        f"top-5 shared {metrics.top5_overlap:.0%}",
        f"top-1 same {agree} of {positions}"
        + (f", {metrics.flips_unexplained} flips beyond the margin" if metrics.flips else ""),
    ]
    if metrics.nll_a is not None and metrics.nll_b is not None:
        items.append(f"NLL A {metrics.nll_a:.4f} B {metrics.nll_b:.4f}")
    for letter, padded in (("A", metrics.nll_padded_a), ("B", metrics.nll_padded_b)):
        if padded is not None:
            items.append(f"NLL with the vocabulary's padding {letter} {padded:.4f}")
    return items


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


def prompt_lines(prompt: Prompt, width: int, height: int, *, ascii_only: bool) -> list[Line]:
    """Return every id with its text; at the end, the number of those that do not fit."""
    items = [str(token) for token in prompt.ids]
    if prompt.texts:
        texts = [quoted(text, ascii_only=ascii_only) for text in prompt.texts]
        items = [f"{token} {text}" for token, text in zip(items, texts, strict=True)]
    rows: list[str] = []
    for number, item in enumerate(items):
        shown = item if not rows or rows[-1] == "" else f"  {item}"
        more = len(items) - number
        rest = f"  and {more} more"
        last = len(rows) == height
        room = width - (len(rest) if last and more > 1 else 0)
        if rows and cell_len(rows[-1]) + cell_len(shown) <= room:
            rows[-1] += shown
        elif len(rows) < height:
            rows.append(fitted(item, width, ascii_only=ascii_only).rstrip())
        else:
            rows[-1] += rest
            break
    return [line(row) for row in rows]


def _token_text(token: Candidate, width: int, *, ascii_only: bool) -> str:
    """Return a token's text, with its id from 24 cells on; without a text, its id."""
    if token.text is None:
        return fitted(f"id {token.id}", width)
    text = quoted(token.text, ascii_only=ascii_only)
    number = f" {token.id}"
    if width < 24:
        return fitted(text, width, ascii_only=ascii_only)
    return fitted(text, width - len(number), ascii_only=ascii_only) + number


def _chance_text(value: float) -> str:
    """Return a probability in 7 cells: three decimals, or if all were zeros as other numbers."""
    return f"{f'{value:.3f}' if value >= 0.0005 else format_number(value):>7}"


def top_lines(after: Next, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the likeliest tokens of both sides, each with its rank in the other side's list."""
    room = max(4, min(WIDEST_TOKEN, (width - 41) // 2))
    head_a = f"{'A':<{room}} {'p':>7} {'in B':>7}"
    head_b = f"{'B':<{room}} {'p':>7} {'in A':>7}"
    lines = [line((f" #  {head_a}     {head_b}", "dim"))]
    for rank, pair in enumerate(zip(after.a, after.b, strict=False), 1):
        if len(lines) == height:
            break
        mark = "=" if pair[0].id == pair[1].id else "!"
        left, right = (
            f"{_token_text(token, room, ascii_only=ascii_only)} {_chance_text(token.probability)} "
            f"{f'#{token.rank_in_other}' if token.rank_in_other else '-':>7}"
            for token in pair
        )
        role = "" if mark == "=" else "differ"
        lines.append(line(f"{rank:>2}  {left}  ", (mark, role), f"  {right}"))
    return lines


def position_line(after: Next, text: str, width: int, *, ascii_only: bool = False) -> Line:
    """Return the token at a position, and the likeliest token after it on each side."""
    room = max(4, min(WIDEST_TOKEN, (width - 25) // 3))
    token_a, token_b = after.a[0], after.b[0]
    mark = "=" if token_a.id == token_b.id else "!"
    left, right = (
        f"{_token_text(token, room, ascii_only=ascii_only)} {_chance_text(token.probability)}"
        for token in (token_a, token_b)
    )
    token_here = fitted(text, room - 1, ascii_only=ascii_only)
    return line(
        f"{after.position:>4}  {token_here} {left} ", (mark, "differ" * (mark != "=")), f" {right}"
    )


def position_head(width: int) -> Line:
    """Return the header above the lines of `position_line`."""
    room = max(4, min(WIDEST_TOKEN, (width - 25) // 3))
    side = f"{'{} goes on':<{room + 1}} {'p':>7}"
    words = f"{'at':>4}  {'token':<{room}}{side.format('A')}   {side.format('B')}"
    return line((words, "dim"))


# ── attribution ──────────────────────────────────────────────────────────────────────────────────


def share_lines(shares: Sequence[CauseShare], width: int, *, ascii_only: bool) -> list[Line]:
    """Return a bar for each cause's share of the difference, and its note below."""
    name_width = min(max((len(share.cause) for share in shares), default=0), width // 2)
    room = max(4, width - name_width - 8)
    fill, trace = ("#", ".") if ascii_only else ("█", "▏")  # a full cell, a bar of less than one
    lines = []
    for share in shares:
        name = fitted(printable(share.cause), name_width, ascii_only=ascii_only)
        part = share.share if isfinite(share.share) else 0.0
        bar = fill * round(room * min(1.0, part)) or (trace if part else "")
        amount = "0" if share.share == 0 else "<0.1%" if part < 0.001 else f"{part:.1%}"
        lines.append(line(f"{name} {amount:>6} ", (bar, "bar")))
        if share.note:
            lines += [
                line(("  ", ""), *row) for row in wrapped(printable(share.note), width - 2, "dim")
            ]
    return lines


# ── text to copy ─────────────────────────────────────────────────────────────────────────────────


def text_to_copy(diff: LogitDiff) -> str:
    """Return the verdict, the figures, the taps and the next tokens as plain text."""
    lines = [f"{GLYPHS[diff.verdict]} {printable(diff.sentence)}"]
    lines += [f"ids {','.join(map(str, diff.ids))}", *map(printable, (*diff.fed, *diff.notes))]
    lines += metric_items(diff.metrics, len(diff.ids))
    lines.append(f"threshold {format_number(diff.threshold)}, floor {format_number(diff.floor)}")
    lines += (
        f"{'' if tap.layer is None else tap.layer}\t{tap.name}\t{format_number(tap.rel)}"
        for tap in diff.taps
    )
    for after in diff.top[-1:]:
        for side, tokens in (("A", after.a), ("B", after.b)):
            candidates = "  ".join(
                f"{token.id if token.text is None else quoted(token.text)}"
                f" {_chance_text(token.probability).strip()}"
                for token in tokens
            )
            lines.append(f"after position {after.position}, {side}: {candidates}")
    lines += (f"{printable(share.cause)}\t{share.share:.1%}" for share in diff.attribution)
    return "\n".join(lines)


def count_words(run: PromptRun | None) -> str:
    return "" if run is None or run.prompt is None else plural(len(run.prompt.ids), "token")


def why_not_prompt(session: Session, run: PromptRun | None, action: str) -> str | None:
    """Return why an action on the run of a prompt is disabled now; None if it is enabled."""
    diff = None if run is None else run.diff
    if action == "ask" and session.b is None:
        return "Both checkpoints have to be open first."
    if action == "stop" and (run is None or not run.is_busy):
        return "Stop: nothing is running."
    if action in ("positions", "copy_table") and diff is None:
        return "There is no result yet."
    if action == "attribution":
        if run is None:
            return "Causes: type a prompt first."
        if run.is_busy:
            return f"Causes: wait for the end, or stop with {key('logits.stop', 'x')}."
        if diff is not None and diff.verdict != "arithmetic":
            return "Causes: they are known only where arithmetic alone makes the difference."
    if action == "copy_command" and run is None:
        return "There is no prompt yet."
    if action in ("finding", "mend") and diff is None:
        return "Finding: no step is compared yet."
    return None
