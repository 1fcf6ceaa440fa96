"""What explains the differences, as the screens show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.conversion.plan import Target
    from ckptdiff.results import Finding

State = Literal["none", "looking", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, faults first, and which rows of the list they mark."""

    findings: tuple[Finding, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)  # by tensor and by title of a layer
    # By the number of a finding: what B is written as once more, without it.
    targets: Mapping[int, Target] = field(default_factory=dict)

    def of(self, name: str) -> list[tuple[int, Finding]]:
        """Return the faults that cover a tensor, with their numbers."""
        return [
            (number, finding)
            for number, finding in enumerate(self.findings, 1)
            if finding.severity == "fault" and name in finding.tensors
        ]
