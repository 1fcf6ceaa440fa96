"""What mends a fault in words: the line to copy, and why no conversion does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.fixes import EntryFix
from ckptdiff.report.finding import has_remedy

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.config.fixes import Fix
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.session import Session


def setting_to_copy(session: Session, fix: Fix) -> str:
    """Return what mends a setting as one line: where it belongs, and what to paste there."""
    if isinstance(fix, EntryFix):
        return f"set in {_path(session, fix.letter or 'B', fix.file)}: {fix.entries}"
    if not fix.left_out:
        return f"add to {fix.program}'s arguments: {fix.arguments}"
    words = f"take out of {fix.program}'s arguments: {' '.join(fix.left_out)}"
    return f"{words}; add: {fix.arguments}" if fix.given else words


def _path(session: Session, letter: str, file: str) -> Path | str:
    """Return the path of a side's config file."""
    side = session.a if letter == "A" else session.b
    if side is None:
        return f"{letter}'s {file}"
    known, root = side.checkpoint.config_file, side.checkpoint.root
    if known is not None and known.name == file:
        return known
    return (root.parent if root.suffix == ".safetensors" else root) / file


def fix_to_copy(session: Session, finding: Finding) -> str | None:
    """Return the line that mends a fault; None if there is none."""
    for line in session.config:
        if finding.setting and line.meaning == finding.setting and line.mending is not None:
            return setting_to_copy(session, line.mending)
    return finding.fix


def why_no_command(finding: Finding) -> str:
    """Return why nothing that can be copied mends a finding."""
    if finding.severity != "fault":
        return "this is a note, and nothing has to be mended."
    if finding.is_unruled:
        return "no family's rules know how to write it."
    if has_remedy(finding):
        return "it cannot be undone."
    return "nothing has to be converted again."


def why_no_conversion(session: Session, number: int, *, here: str) -> str | None:
    """Return why no conversion takes a fault out; None if one does.

    `here` says where its fix is.
    """
    finding = session.diagnosis.findings[number - 1]
    if number in session.diagnosis.targets:
        return None
    if finding.fix is not None:
        return f"no conversion is needed. {here}"
    return why_no_command(finding)
