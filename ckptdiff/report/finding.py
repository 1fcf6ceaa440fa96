"""A finding as an object of the JSON, as lines of the summary, and as facts for the screen."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.fault_classes import FAULT_CLASSES, effect_of
from ckptdiff.text import number_ranges, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.checkpoint import Rank
    from ckptdiff.results import Finding

MAX_RANKS = 8  # that are named one by one
UNRULED = (
    "nothing is lost, but ckptdiff has no rules to write this model, so no command mends it; what "
    "belongs where is named above"
)


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding as an object of the JSON document; `class` is its class of faults."""
    return {
        "class": finding.kind,
        "severity": finding.severity,
        "title": finding.title,
        "confidence": finding.confidence,
        "cause_confidence": finding.cause_confidence,
        "tensors": list(finding.tensors),
        "layers": list(finding.layers),
        "experts": list(finding.experts),
        "ranks": [{"tp": r.tp, "pp": r.pp, "ep": r.ep} for r in finding.ranks],
        "evidence": finding.evidence,
        "also_explained_by": list(finding.also_explained_by),
        "undo": None if finding.undo is None else finding.undo.text(),
        "fix": finding.fix,
    }


def finding_lines(finding: Finding) -> Iterator[str]:
    """Yield the lines that report a finding in the summary."""
    mark = "✗" if finding.severity == "fault" else "i"
    yield f"{mark}  {finding.kind}: {printable(finding.title)}"
    if finding.tensors or finding.layers or finding.ranks:
        yield f"     {printable(touched(finding))}"
    evidence = finding.evidence.removeprefix(finding.title).lstrip("; ")
    if evidence:
        yield f"     {printable(evidence)}"
    if finding.also_explained_by:
        yield f"     cause: {printable('; or '.join(finding.also_explained_by))}"
    yield from (f"     {line}" for line in fix_lines(finding))


def fix_lines(finding: Finding) -> Iterator[str]:
    """Yield the line that says how a finding is mended; none where nothing has to be."""
    if finding.fix:
        yield f"fix: {printable(finding.fix)}"
    elif finding.is_unruled:
        yield UNRULED
    elif has_remedy(finding):
        yield FAULT_CLASSES[finding.kind].remedy


def has_remedy(finding: Finding) -> bool:
    """Return whether no re-mapping and no other name mends a fault: `FaultRow.remedy` does."""
    of_names = FAULT_CLASSES[finding.kind].is_of_names or finding.kind == "CONFIG"
    is_there = of_names or finding.is_unruled or not finding.is_lost
    return finding.severity == "fault" and finding.undo is None and not is_there


def touched(finding: Finding) -> str:
    """Return how many tensors a finding covers and which layers, experts and ranks, as text."""
    parts = [f"{len(finding.tensors)} tensor{'' if len(finding.tensors) == 1 else 's'}"]
    for word, numbers in (("layer", finding.layers), ("expert", finding.experts)):
        if numbers:
            parts.append(f"{word}{'' if len(numbers) == 1 else 's'} {number_ranges(numbers)}")
    if finding.ranks:
        parts.append(_ranks(finding.ranks))
    return ", ".join(parts)


def _ranks(ranks: Sequence[Rank]) -> str:
    """Return `TP ranks 0-1, PP rank 1`; each by itself where they are not all of a grid."""
    used = [n for n in ("tp", "pp", "ep") if n == "tp" or any(getattr(r, n) for r in ranks)]
    axes = {name: sorted({getattr(rank, name) for rank in ranks}) for name in used}
    if prod(map(len, axes.values())) == len(ranks):
        return ", ".join(
            f"{name.upper()} rank{'s' * (len(axis) > 1)} {number_ranges(axis)}"
            for name, axis in axes.items()
        )
    words = [" ".join(f"{name.upper()} {getattr(rank, name)}" for name in used) for rank in ranks]
    more = f" and {len(words) - MAX_RANKS} more" if len(words) > MAX_RANKS else ""
    return f"ranks {'; '.join(words[:MAX_RANKS])}{more}"


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
        yield "Or", f"{'; or '.join(others)} (each leaves the same bytes)"
    elif finding.cause:
        yield "Cause", finding.cause
    if finding.fix is not None:
        yield "Fix", f"run B with {finding.fix}" if finding.fix.startswith("--") else finding.fix
    elif finding.is_unruled:
        yield "Fix", f"{UNRULED[0].upper()}{UNRULED[1:]}."
    elif has_remedy(finding):
        remedy = FAULT_CLASSES[finding.kind].remedy
        yield "Fix", f"{remedy[0].upper()}{remedy[1:]}."
    if finding.rejected:
        yield "Ruled out", f"{', '.join(finding.rejected)}: they would leave other bytes"
