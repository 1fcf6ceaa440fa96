"""The texts of the tensor list: its borders, its placeholder, and why keys are disabled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.inventory import Unmapped
from ckptdiff.tui.model.order import REVERSED, SORTS
from ckptdiff.tui.text.progress import state_words
from ckptdiff.tui.text.stored import fills_words, in_all
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.order import Sort
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.model.stored import StoredRow

COPIES = "copy the name, in two panes as the side in focus stores it"
OF_PAIRS = {  # actions that one checkpoint alone does not have
    "differences_only", "write_report", "stop", "config", "optimizer", "findings", "logits"
}  # fmt: skip
HEADING = re.compile(r"\S+")  # the name of a column


def _pattern(session: Session) -> str:
    """Return the filter as it was typed."""
    return f"{'!' if session.inverted else ''}{printable(session.filter)}"


def list_title(session: Session) -> str:
    """Return what narrows the list and how many names it leaves."""
    in_files = session.view == "files"
    parts = [_files_title(session) if in_files else "Tensors"]
    if session.filter:
        parts.append(f"/ {_pattern(session)}")
        if session.tensors.by_letters:
            parts.append("letters in order")
    if session.differences_only:
        parts.append("differences only")
    if session.finding is not None:
        kind = session.diagnosis.findings[session.finding - 1].kind
        parts.append(f"finding {session.finding}, {kind}")
    if session.narrowed and (session.files.is_listed or not in_files):
        shown, of = len(session.tensors.order), len(session.names)
        if in_files:
            shown, of = len(session.files.shown), in_all(session.files.files)
        parts.append(f"{shown:,} of {of:,}")
    if session.optimizer:
        parts.append("with optimizer state")
    if session.tolerance != "cast":
        parts.append(f"tolerance {session.tolerance}")
    if in_files and not session.browsing:
        parts.append("St, max|d| of whole tensors, not of one file")
    return "  ".join(parts)


def _files_title(session: Session) -> str:
    """Return whose files the list shows."""
    if not session.files.is_listed:
        return "Files" if session.browsing else "B's files"
    count = plural(len(session.files.files), "file")
    return count if session.browsing else f"B's files: {count}"


def list_subtitle(session: Session, cursor: int) -> str:
    """Return the row of the cursor and the sort order."""
    rows = session.listing.rows
    if not rows:
        return ""
    order = (REVERSED if session.reverse else SORTS)[session.sort]
    if session.tensors.by_letters and session.sort == "model":
        order = f"{'worst' if session.reverse else 'best'} match first"
    return f"row {cursor + 1:,} of {len(rows):,}   sort: {order}"


SORT_MARKS = "▼▲v^"  # behind the name of the sorted column; in ASCII the last two
# How a click on the header of a column sorts.
SORTED_BY: dict[str, Sort] = {
    "Tensor": "model", "max|d|": "max", "cos": "cos", "Size": "size", "Shape": "size"
}  # fmt: skip


def sort_at(header: str, x: int) -> Sort | None:
    """Return how the column at cell `x` of a header sorts; None for one that does not."""
    begun = [name for name in HEADING.finditer(header) if name.start() <= x]
    return SORTED_BY.get(begun[-1][0].rstrip(SORT_MARKS)) if begun else None


def with_sort_mark(header: str, session: Session) -> str:
    """Return the header with an arrow behind the column that the list is sorted by."""
    if session.sort == "model" and not session.reverse:
        return header
    names = [name for name in HEADING.finditer(header) if SORTED_BY.get(name[0]) == session.sort]
    if not names:
        return header
    mark = SORT_MARKS[2 * session.ascii_only + session.reverse]
    at = names[-1].end()
    return f"{header[:at]}{mark}{header[at + 1 :]}"


def empty_words(session: Session) -> str:
    """Return why the list has no rows, and which key brings some."""
    if session.a is None:
        return state_words(session) if session.phase != "failed" else ""
    if session.tensors.is_unranked:
        return f"Looking for the letters of '{_pattern(session)}' in order."
    if session.view == "files":
        if session.files.side is None:
            return "B is not open yet."
        if not session.files.is_listed:
            return "Reading what each file holds ..."
        nothing = not session.files.shown
    else:
        nothing = not session.tensors.order
    if session.filter and nothing:
        among = " among the differences" if session.differences_only else ""
        if session.finding is not None:
            among = f" in finding {session.finding}"
        clear = key("screen.escape", "Esc")
        return f"No tensor matches '{_pattern(session)}'{among}. {clear} clears the filter."
    if session.differences_only:
        d = key("tensors.differences", "d")
        if session.phase == "done":
            return f"No differences in {plural(len(session.names), 'tensor')}. {d} shows all."
        return f"No difference among {session.compared:,} compared so far. {d} shows all tensors."
    return "This checkpoint holds no tensors."


def no_further(session: Session) -> str:
    """Return that there is no further difference, or no further match of the filter."""
    if not session.differences:
        return "There is no further match."
    return f"There is no further difference{'' if session.phase == 'done' else ' known yet'}."


def unmapped_words(row: Unmapped) -> str:
    """Return why an unmapped name cannot be compared."""
    name = f"{printable(row.name)} of {row.side.upper()}"
    words = f"No rule of this model family knows {name}, so it cannot be compared."
    if row.ref is None:
        words = f"Optimizer state that belongs to no known weight: {name}."
    return f"{words} It counts as a difference."


def why_no_detail(session: Session, row: Unmapped | StoredRow) -> str:
    """Return why a row opens no detail: what it stands for is in no canonical tensor."""
    if isinstance(row, Unmapped):
        return unmapped_words(row)
    if row.use == "unmapped":
        side: Side = "a" if session.browsing else "b"
        return unmapped_words(Unmapped(side, row.name, row.ref))
    return f"{printable(row.name)}: {fills_words(session, row)}."


def why_not(session: Session, action: str) -> str | None:
    """Return why an action is disabled now; None if it is enabled."""
    alone = "this is one checkpoint. Open two to compare them"
    if action == "difference":
        if session.browsing:
            return None if session.filter else f"Next difference: {alone}."
        if not session.differences and not session.filter:
            done = session.phase == "done"
            return "There is no difference." if done else "No difference is known yet."
    elif action == "differences_only" and session.browsing:
        return f"Differences only: {alone}."
    elif action == "stop" and not session.is_busy:
        return "Stop: nothing is running."
    elif action == "write_report":
        if session.browsing:
            return f"Report: {alone}."
        if session.diagnosis_state == "looking":
            return f"Report: still looking for the cause. {key('tensors.stop', 'x')} stops that."
        if session.phase != "done":
            return (
                f"Report: finish comparing first. {key('tensors.again', 'r')} goes on after a stop."
            )
    elif action == "findings":
        return _no_findings(session)
    elif action == "statistics" and not session.browsing:
        return "Statistics: of one checkpoint. Enter shows how the sides differ."
    elif action == "config":
        if session.browsing:
            return f"Config: {alone}."
        if session.b is None:
            return "Config: both checkpoints have to be open first."
    elif action == "logits":
        if session.browsing:
            return f"Logits: {alone}."
        if session.b is None:
            return "Logits: both checkpoints have to be open first."
    elif action == "optimizer":
        if session.browsing:
            return f"Optimizer: {alone}."
        if session.a is None or session.b is None:
            return "Optimizer: both checkpoints have to be open first."
        sides = (session.a, session.b)
        if not any(side.checkpoint.convention == "megatron" for side in sides):
            return "Optimizer: only Megatron's checkpoints hold any."
    elif action == "convert" and session.a is None:
        return "Convert: no checkpoint is open yet."
    elif action == "entries" and session.a is None:
        return "Entries: no checkpoint is open yet."
    elif (
        action in ("copy_name", "copy_command", "sort", "reverse", "filter", "view")
        and not session.names
    ):
        return "There are no tensors yet."
    return None


def _no_findings(session: Session) -> str | None:
    """Return why there are no findings to show; None if there are, or a diagnosis can start."""
    if session.browsing:
        return "Findings: this is one checkpoint. Open two to compare them."
    if session.diagnosis_state == "looking":
        return f"Findings: still looking for the cause. {key('tensors.stop', 'x')} stops that."
    if session.phase != "done":
        return (
            f"Findings: finish comparing first. {key('tensors.again', 'r')} goes on after a stop."
        )
    if not session.has_faults:
        if session.counts["packed"]:
            return "No findings: nothing differs but what is packed, and that was not compared."
        return "No findings: there is no difference to explain."
    if session.diagnosis_state == "done" and not session.diagnosis.findings:
        return "No findings: no fault that ckptdiff knows explains these differences."
    return None
