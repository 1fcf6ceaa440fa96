"""The state of a session in words, and the outcome of its comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, printable
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
        return f"{plural(len(session.names), 'tensor')}, {format_bytes(total)}. Headers only."
    return ""


def side_notes(session: Session) -> list[str]:
    """Return the notes on how each side was assembled."""
    return [
        f"{letter}: {printable('; '.join(side.notes))}."
        for letter, side in (("A", session.a), ("B", session.b))
        if side is not None and side.notes
    ]


def _differences(session: Session) -> str:
    """Return how many tensors differ and how many names are unmapped."""
    unmapped = len(session.inventory.unmapped)
    tensors = session.differences - unmapped
    total = plural(len(session.names), "tensor")
    if not unmapped:
        return f"{tensors:,} of {total} differ."
    names = f"{plural(unmapped, 'name')} {'has' if unmapped == 1 else 'have'} no rule"
    if not tensors:
        return f"{names}; no differences in {total}."
    return f"{tensors:,} of {total} differ, and {names}."


def outcome(session: Session) -> tuple[str, str]:
    """Return the verdict and a sentence about it, once the comparison is complete."""
    summary = session.summary
    verdict = "differ" if session.differences or summary is None else str(summary.verdict)
    total = plural(len(session.names), "tensor")
    if session.counts["error"]:
        text = f"x {plural(session.counts['error'], 'tensor')} of {total} could not be read."
        verdict = "error"
    elif session.differences:
        text = f"! {_differences(session)}"
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
    if session.compared_at:
        ago = format_ago(session.now() - min(session.compared_at.values()))
        return verdict, f"{text} Compared {ago}; r compares again."
    return verdict, f"{text} Compared every byte in {format_duration(session.progress.seconds)}."
