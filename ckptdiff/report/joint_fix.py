"""The command that mends several faults at once, in the summary and on the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import Finding, JointFix


def joint_fix_of(a: Assembled, b: Assembled, summary: DiffSummary) -> JointFix | None:
    """Return the command that mends several faults of a comparison at once; None if none does."""
    if len(summary.findings) < 2:
        return None
    from ckptdiff.diagnosis.run import joint_fix

    return joint_fix(a, b, summary.findings)


def joint_title(fix: JointFix) -> str:
    """Return which faults the command mends, and which it does not."""
    total = len(fix.mended) + len(fix.left)
    count = f"{len(fix.mended)} of the {total}" if fix.left else f"the {total}"
    words = f"{count} faults below are mended by one command ({_kinds(fix.mended)})"
    if not fix.left:
        return words
    return f"{words}; it does not mend {_kinds(fix.left)}"


def joint_lines(fix: JointFix) -> Iterator[str]:
    """Yield the lines of the summary."""
    yield f"i  {joint_title(fix)}"
    yield f"     fix: {printable(fix.command)}"


def _kinds(findings: tuple[Finding, ...]) -> str:
    return ", ".join(finding.kind for finding in findings)
