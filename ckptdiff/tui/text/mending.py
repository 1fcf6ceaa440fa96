"""What mends a fault in words: the line to copy, and why no conversion does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.report.finding import has_remedy

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Finding
    from ckptdiff.tui.model.session import Session

_LEFT_OUT = re.compile(r"leave out (--[\w-]+)(?:, |$)")
_OTHER_PROGRAM = re.compile(r" \((Megatron-[^()]+)\)$")
_IN_FILE = re.compile(r"(.*) in (?:([AB])'s )?(\S+\.(?:json|ya?ml))", re.DOTALL)


def setting_to_copy(session: Session, fix: str) -> str:
    """Return what mends a setting as one line: where it belongs, and what to paste there."""
    if (entries := _IN_FILE.fullmatch(fix)) is not None:
        words, letter, file = entries.groups()
        return f"set in {_path(session, letter or 'B', file)}: {words}"
    program = _OTHER_PROGRAM.search(fix)
    name = "Megatron-LM" if program is None else program[1]
    flags = _OTHER_PROGRAM.sub("", fix)
    out, given = _LEFT_OUT.findall(flags), _LEFT_OUT.sub("", flags)
    if not out:
        return f"add to {name}'s arguments: {given}"
    words = f"take out of {name}'s arguments: {' '.join(out)}"
    return f"{words}; add: {given}" if given else words


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
    if finding.fix is None or not finding.setting:
        return finding.fix
    return setting_to_copy(session, finding.fix)


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
