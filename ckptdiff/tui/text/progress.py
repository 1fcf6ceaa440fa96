"""The state of a session in words, and the outcome of its comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.comparison.packed import schemes_of
from ckptdiff.report.listed import unexplained_words
from ckptdiff.text import format_bytes, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS
from ckptdiff.tui.words import format_ago, format_duration, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.comparison.verdict import DiffSummary
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
            f"No rules: looking for equal rows in {done:,} of {plural(total, 'tensor')}. "
            f"{key('tensors.stop', 'x')} stops."
        )
    if session.phase == "stopped":
        return (
            f"Stopped. {session.compared:,} of {len(session.names):,} compared. "
            f"{key('tensors.again', 'r')} goes on."
        )
    if session.browsing and session.a is not None:
        total = sum(layer.nbytes for layer in session.layers)
        words = f"{plural(len(session.names), 'tensor')}, {format_bytes(total)}. Headers only."
        for way, count in schemes_of(session.a).items():
            are = "is" if count == 1 else "are"
            words += f" {plural(count, 'weight')} {are} packed as {way}."
        return words
    return ""


def side_notes(session: Session) -> list[str]:
    """Return the notes on how each side was opened and assembled."""
    sides = [(letter, x) for letter, x in (("A", session.a), ("B", session.b)) if x is not None]
    notes = {letter: (*side.checkpoint.notes, *side.notes) for letter, side in sides}
    said = {letter: printable("; ".join(found)) for letter, found in notes.items() if found}
    if session.browsing:
        return [f"{_capitalised(words)}." for words in said.values()]
    return [f"{letter}: {words}." for letter, words in said.items()]


def _capitalised(words: str) -> str:
    """Return a sentence with a capital at its start, unless that is the name of a file."""
    first = words.partition(" ")[0]
    return words[0].upper() + words[1:] if first.isalpha() else words


# What is said of tensors with these statuses, of one and of several.
_SAID = {
    "error": ("could not be read", "could not be read"),
    "differ": ("differs", "differ"),
    "shape": ("has another shape", "have another shape"),
    "only_a": ("is only in A", "are only in A"),
    "only_b": ("is only in B", "are only in B"),
}


def _differences(session: Session) -> str:
    """Return how many tensors differ in which way, how many names are unmapped, what is packed."""
    unmapped, packed = len(session.inventory.unmapped), session.counts["packed"]
    unlike = session.summary.unlike if session.summary is not None else 0
    total = plural(len(session.names), "tensor")
    kinds: list[str] = []
    for status, (one, several) in _SAID.items():
        if count := session.counts[status]:
            of = "" if kinds else f" of {total}"
            kinds.append(f"{count:,}{of} {one if count == 1 else several}")
    names = f"{plural(unmapped, 'name')} {'has' if unmapped == 1 else 'have'} no rule"
    if unmapped and not kinds:
        said = f"{names}; no differences in {total}."
    else:
        last = f", and {names}" if unmapped else ""
        said = f"{_joined(kinds)}{last}." if kinds else ""
    rest = (
        _packed(packed - unlike, total),
        _unlike(unlike, total),
        _matched(session.counts["matched"], total),
    )
    return " ".join(filter(None, (said, *rest)))


def _joined(parts: Sequence[str]) -> str:
    """Return parts as an enumeration: `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _unlike(count: int, total: str) -> str:
    """Return that tensors of dtypes without numbers were not compared with others."""
    if not count:
        return ""
    verb = "was" if count == 1 else "were"
    return f"{count:,} of {total} {verb} not compared: different dtypes without numbers."


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
    return f"{count:,} of {total} {verb} found by content alone: no rule pairs their names."


def _not_found(summary: DiffSummary) -> str:
    """Return what of B a loader does not find: `names`, `files`, or nothing."""
    found = {"names": summary.names_status != "known", "files": summary.files_status == "stale"}
    return " and ".join(word for word, is_lost in found.items() if is_lost)


def _damaged(summary: DiffSummary) -> str:
    """Return which file is not what was saved."""
    sides = [(side.letter, one) for side in summary.hashes for one in side.trouble]
    letter, first = sides[0]
    more = f" ({plural(len(sides), 'file')} in all)" if len(sides) > 1 else ""
    return f"{letter}'s {printable(first.file)}: {printable(first.why)}{more}"


def outcome(session: Session) -> tuple[str, str]:
    """Return the verdict and a sentence about it, once the comparison is complete."""
    again, config = key("tensors.again", "r"), key("tensors.config", "2")
    optimizer = key("tensors.optimizer", "o")
    summary = session.summary
    verdict = "differ" if session.differences or summary is None else str(summary.verdict)
    total = plural(len(session.names), "tensor")
    unseen = any(session.counts[status] for status in ("error", "packed", "shape"))
    every_byte = f"Compared every byte{' of the others' if unseen else ''}"
    if session.counts["error"] == len(session.names) and session.names:
        return "error", (
            f"x No tensor could be read, so nothing is known of the weights: "
            f"{key('list.open', 'Enter')} says why. Mend that, then {again} compares again."
        )
    if session.counts["error"]:
        text = f"x {session.counts['error']:,} of {total} could not be read."
        verdict = "error"
    elif session.differences:
        if summary is not None and summary.verdict in ("packed", "matched"):
            verdict = summary.verdict
        text = f"{GLYPHS[verdict]} {_differences(session)}"
        text += f" The configs conflict: key {config} shows where." if session.conflicts else ""
        if summary is not None and summary.masters:
            holders = " and ".join(summary.masters)
            verb = "hold" if len(summary.masters) > 1 else "holds"
            text += f" {holders} {verb} fp32 master weights: {optimizer} compares those too."
    elif verdict == "differ" and summary is not None and summary.files_status == "damaged":
        text = f"! No differences in {total}, but {_damaged(summary)}."
        text += f" The configs conflict: key {config} shows where." if session.conflicts else ""
    elif verdict == "differ" and summary is not None and (lost := _not_found(summary)):
        text = f"! No differences in {total}, but a loader does not find B's {lost}."
        text += f" The configs conflict: key {config} shows where." if session.conflicts else ""
    elif verdict == "differ" and summary is not None:
        why = "the configs conflict" if session.conflicts else unexplained_words(summary)
        text = f"! No differences in {total}, but {why}: key {config} shows where."
    elif verdict == "close":
        text = f"~ No differences in {total} beyond the rounding of {session.counts['close']:,}."
    else:
        text = f"= No differences in {total}."
    if summary is not None and summary.config_why and not session.differences:
        text += f" {summary.config_why[0].upper()}{summary.config_why[1:]}."
    if session.compared_at:
        ago = format_ago(session.now() - min(session.compared_at.values()))
        return verdict, f"{text} Compared {ago}; {again} compares again."
    return verdict, f"{text} {every_byte} in {format_duration(session.progress.seconds)}."
