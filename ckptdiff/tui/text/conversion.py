"""What the form of a conversion says before it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.conversion.command import cannot_lines
from ckptdiff.text import printable
from ckptdiff.tui.words import short_path

if TYPE_CHECKING:
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.conversion import ConversionPlan
    from ckptdiff.tui.model.session import Session

MAX_FAULTS = 3  # that are named


def before_writing(plan: ConversionPlan, session: Session, side: Side) -> str:
    """Return what is written where, what goes for it, and which known faults are kept."""
    assert plan.conversion is not None
    out = short_path(plan.out)
    words = [f"{short_path(plan.draft.source)} is written to {out}."]
    if plan.replaces:
        words = [f"What {out} holds is removed once the new one is verified."]
    words += warning_words(plan, session, side)
    if taken := _taken_out(plan, session, side):
        named = ", ".join(f"{number} {finding.kind}" for number, finding in taken[:MAX_FAULTS])
        more = f" and {len(taken) - MAX_FAULTS} more" if len(taken) > MAX_FAULTS else ""
        one = len(taken) == 1
        words.append(
            f"Finding{'' if one else 's'} {named}{more} {'is' if one else 'are'} taken out."
        )
    if side == "b" and not session.browsing and not _is_diagnosed(session):
        words.append("B is not compared and looked through to the end: it may have faults.")
    return "\n".join(words)


def warning_words(plan: ConversionPlan, session: Session, side: Side) -> list[str]:
    """Return what the target program cannot compute, and the known faults that are kept."""
    if plan.conversion is None:
        return []
    cannot = [f"{sentence}." for sentence in cannot_lines(plan.conversion)]
    return [*cannot, *kept_words(plan, session, side)]


def kept_words(plan: ConversionPlan, session: Session, side: Side) -> list[str]:
    """Return a sentence for each known fault of the source that the conversion keeps."""
    kept = _kept(plan, session, side)
    words = [
        f"B has finding {number}, {finding.kind}: {printable(finding.title)}. This conversion "
        "keeps it."
        for number, finding in kept[:MAX_FAULTS]
    ]
    if len(kept) > MAX_FAULTS:
        words.append(f"It keeps {len(kept) - MAX_FAULTS} more findings.")
    return words


def _taken_out(plan: ConversionPlan, session: Session, side: Side) -> list[tuple[int, Finding]]:
    """Return the faults of B that a conversion of it takes out."""
    if side != "b":
        return []
    kept = {number for number, _ in _kept(plan, session, side)}
    undone = plan.draft.target.undo
    return [
        (number, finding)
        for number, finding in session.diagnosis.faults
        if number not in kept and (finding.undo in undone or finding.kind == "NAMES")
    ]


def _kept(plan: ConversionPlan, session: Session, side: Side) -> list[tuple[int, Finding]]:
    """Return the faults of B that a conversion of it does not take out."""
    if side != "b":
        return []
    undone = plan.draft.target.undo
    return [
        (number, finding)
        for number, finding in session.diagnosis.faults
        if finding.undo not in undone and (finding.undo or number not in session.diagnosis.targets)
        if not (finding.kind == "CONFIG" and _lends_config(plan))
        if finding.letter == "B" and not (finding.kind == "TIED" and _unties(plan, session))
    ]


def _lends_config(plan: ConversionPlan) -> bool:
    """Return whether what is written has the config of the folder that it is to be like."""
    return plan.draft.like is not None and plan.draft.target.to == "hf"


def _unties(plan: ConversionPlan, session: Session) -> bool:
    """Return whether a conversion keeps a head of B's by a config that does not tie it."""
    assert plan.conversion is not None
    before, after = session.b, plan.conversion.source.config
    if before is None or before.config is None or after is None:
        return False
    return before.config.tied_embeddings and not after.tied_embeddings


def _is_diagnosed(session: Session) -> bool:
    """Return whether the faults of B are known, if it has any."""
    is_compared = session.phase == "done"
    return is_compared and (session.diagnosis_state == "done" or not session.has_faults)
