"""Which findings explain a step of a forward pass that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding, Tap


def findings_of_step(
    findings: Sequence[Finding], tap: Tap, config: Iterable[ConfigDiff]
) -> list[tuple[int, Finding]]:
    """Return the faults of the tensors that a step reads, then of the settings that move it.

    Each has its number among the findings, from 1.
    """
    faults = [(n, one) for n, one in enumerate(findings, 1) if one.severity == "fault"]
    found = [each for name in tap.reads for each in faults if name in each[1].tensors]
    for line in config:
        if line.moves is None or tap.name in line.moves:
            found += (each for each in faults if each[1].setting == line.meaning)
    return list(dict(found).items())
