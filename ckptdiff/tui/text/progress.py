"""The state of a session in words, and the outcome of its comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.comparison.packed import schemes_of
from ckptdiff.text import format_bytes, printable
from ckptdiff.tui.model.comparison import GLYPHS
from ckptdiff.tui.words import format_ago, format_duration, plural

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Session


def state_words(session: Session) -> str:
    """Return what the session is doing, where neither a bar nor a verdict is shown."""
    if session.phase == "reading":
        a_is_open = session.a is not None and not session.in_part
        side = "b" if a_is_open and not session.browsing else "a"
        done, total = session.headers.get(side, (0, 0))  # type: ignore[call-overload]
        which = "" if session.browsing else f" of {side.upper()}"
        files = f" {done:,} of {plural(total, 'file')}" if total else ""
        return f"Reading headers{which}:{files}" if files else f"Reading headers{which} ..."
    if session.phase == "matching":
        done, total = session.matched
        return (
            f"No rules: looking for equal rows in {done:,} of {plural(total, 'tensor')}. x stops."
        )
    if session.phase == "stopped":
        return f"Stopped. {session.compared:,} of {len(session.names):,} compared. r goes on."
    if session.browsing and session.a is not None:
        total = sum(layer.nbytes for layer in session.layers)
        words = f"{plural(len(session.names), 'tensor')}, {format_bytes(total)}. Headers only."
        for way, count in schemes_of(session.a).items():
            are = "is" if count == 1 else "are"
            words += f" {plural(count, 'weight')} {are} packed as {way}."
        return " ".join([words, *side_notes(session)])
    return ""


def side_notes(session: Session) -> list[str]:
    """Return the notes on how each side was opened and assembled."""
    sides = [(letter, x) for letter, x in (("A", session.a), ("B", session.b)) if x is not None]
    notes = {letter: (*side.checkpoint.notes, *side.notes) for letter, side in sides}
    return [
        f"{'' if session.browsing else f'{letter}: '}{printable('; '.join(found))}."
        for letter, found in notes.items()
        if found
    ]


def _differences(session: Session) -> str:
    """Return how many tensors differ, how many names are unmapped, and what was not compared."""
    unmapped, packed = len(session.inventory.unmapped), session.counts["packed"]
    matched = session.counts["matched"]
    tensors = session.differences - unmapped - packed - matched
    total = plural(len(session.names), "tensor")
    names = f"{plural(unmapped, 'name')} {'has' if unmapped == 1 else 'have'} no rule"
    if not unmapped:
        said = f"{tensors:,} of {total} differ." if tensors else ""
    elif not tensors:
        said = f"{names}; no differences in {total}."
    else:
        said = f"{tensors:,} of {total} differ, and {names}."
    return " ".join(filter(None, (said, _packed(packed, total), _matched(matched, total))))


def _packed(count: int, total: str) -> str:
    """Return that packed tensors were not compared."""
    if not count:
        return ""
    are = "is" if count == 1 else "are"
    return f"{count:,} of {total} {are} packed on a side, so not compared: dequantise it first."


def _matched(count: int, total: str) -> str:
    """Return what is known of tensors that were found by content."""
    if not count:
        return ""
    verb = "was" if count == 1 else "were"
    return f"{count:,} of {total} {verb} found by content alone: no rule says that names are pairs."


def outcome(session: Session) -> tuple[str, str]:
    """Return the verdict and a sentence about it, once the comparison is complete."""
    summary = session.summary
    verdict = "differ" if session.differences or summary is None else str(summary.verdict)
    total = plural(len(session.names), "tensor")
    unseen = any(session.counts[status] for status in ("error", "packed", "shape"))
    every_byte = f"Compared every byte{' of the others' if unseen else ''}"
    if session.counts["error"] == len(session.names) and session.names:
        return "error", (
            "x No tensor could be read, so nothing is known of the weights: Enter says why. Mend "
            "that, then r compares again."
        )
    if session.counts["error"]:
        text = f"x {plural(session.counts['error'], 'tensor')} of {total} could not be read."
        verdict = "error"
    elif session.differences:
        if summary is not None and summary.verdict in ("packed", "matched"):
            verdict = summary.verdict
        text = f"{GLYPHS[verdict]} {_differences(session)}"
        text += " The configs conflict: 2 shows where." if session.conflicts else ""
        if summary is not None and summary.masters:
            holders = " and ".join(summary.masters)
            verb = "hold" if len(summary.masters) > 1 else "holds"
            text += f" {holders} {verb} fp32 master weights: o compares those too."
    elif verdict == "differ" and summary is not None and summary.names_status == "wrapped":
        text = f"! No differences in {total}, but a loader does not find B's names."
        text += " The configs conflict: 2 shows where." if session.conflicts else ""
    elif verdict == "differ":
        text = f"! No differences in {total}, but the configs conflict: 2 shows where."
    elif verdict == "close":
        text = f"~ No differences in {total} beyond the rounding of {session.counts['close']:,}."
    else:
        text = f"= No differences in {total}."
    if summary is not None and summary.config_why and not session.differences:
        text += f" {summary.config_why[0].upper()}{summary.config_why[1:]}."
    if session.compared_at:
        ago = format_ago(session.now() - min(session.compared_at.values()))
        return verdict, f"{text} Compared {ago}; r compares again."
    return verdict, f"{text} {every_byte} in {format_duration(session.progress.seconds)}."
