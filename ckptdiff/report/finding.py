"""The facts of a finding beside its title, for the screen and for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.fault_classes import effect_of
from ckptdiff.report.diff import is_to_convert_again, touched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.results import Finding

LOST = "No re-mapping mends it, since data is lost: convert again from the source."
DAMAGED = "No re-mapping mends it, since data is lost: copy the file again from the source."


def said(finding: Finding) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of every fact of a finding beside its title."""
    if finding.tensors or finding.layers or finding.ranks:
        yield "Where", touched(finding)
    evidence = finding.evidence.removeprefix(finding.title).lstrip("; ")
    if finding.confidence < 1:
        evidence += f" (confidence {finding.confidence:.0%})"
    if evidence:
        yield "Evidence", evidence
    if effect := effect_of(finding.kind, is_info=finding.severity != "fault"):
        yield "Effect", effect
    if finding.also_explained_by:
        first, *others = finding.also_explained_by
        yield "Cause", f"{first} ({finding.cause_confidence:.0%})"
        yield "Or", f"{'; '.join(others)}: it leaves the same bytes"
    elif finding.cause:
        yield "Cause", finding.cause
    if finding.fix is not None:
        yield "Fix", f"run B with {finding.fix}" if finding.kind == "CONFIG" else finding.fix
    elif is_to_convert_again(finding):
        yield "Fix", DAMAGED if finding.kind == "DAMAGED" else LOST
    if finding.rejected:
        yield "Not this?", f"tried, and they give other bytes: {', '.join(finding.rejected)}"
