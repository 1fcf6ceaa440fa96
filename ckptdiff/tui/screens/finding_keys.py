"""Keys of screens where a finding may cover what is under the cursor: f opens it, c mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding

from ckptdiff.tui.text.mending import why_no_conversion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import Finding
    from ckptdiff.tui.base_app import BaseApp
    from ckptdiff.tui.model.session import Session

    Covering = Sequence[tuple[int, Finding]]  # findings, each with its number from 1


def finding_keys(place: str) -> tuple[Binding, Binding]:
    """Return the two bindings, with ids of a screen. It has `action_finding` and `action_mend`."""
    return (
        Binding(
            "f",
            "finding",
            "Finding",
            id=f"{place}.finding",
            tooltip="what is wrong with what is under the cursor, why, and how to mend it",
        ),
        Binding(
            "c",
            "mend",
            "Mend",
            id=f"{place}.mend",
            tooltip="write the checkpoint once more, without the fault that is under the cursor",
        ),
    )


def mends(session: Session, covering: Covering) -> bool:
    """Return whether a conversion takes out the first of these; if not, the key line has no c."""
    return bool(covering) and covering[0][0] in session.diagnosis.targets


def open_finding(app: BaseApp, session: Session, covering: Covering) -> None:
    app.show_findings(session, covering[0][0])


def mend(app: BaseApp, session: Session, covering: Covering) -> None:
    app.show_convert(session, covering[0][0])


def why_no_finding(
    app: BaseApp, session: Session, covering: Covering, action: str, *, what: str
) -> str | None:
    """Return why one of the two actions is disabled; None if it is enabled, or another one.

    `what` is under the cursor, such as "this tensor".
    """
    if action not in ("finding", "mend"):
        return None
    if not covering:
        return _why_none(session, what)
    if action == "finding":
        return None
    why = why_no_conversion(session, covering[0][0], here="f shows what mends it.")
    if why is None and app.is_converting:
        why = "another conversion is running."
    return None if why is None else f"Mend: {why}"


def _why_none(session: Session, what: str) -> str:
    """Return why there is no finding about this."""
    if session.browsing:
        return "Finding: this is one checkpoint. Open two to compare them."
    if session.phase != "done":
        return "Finding: the comparison has not ended."
    match session.diagnosis_state:
        case "looking":
            return "Finding: still looking for the cause."
        case "stopped" | "failed":
            return "Finding: the search for the cause did not end. f in the tensors looks again."
    return f"Finding: none is about {what}."
