"""The diagnosis, as the screens show it."""

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
    """The findings, faults first, and the marks they leave in the tensor list."""

    findings: tuple[Finding, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)  # by tensor name and layer title
    # By the number of a finding: the target that converts B without the fault.
    targets: Mapping[int, Target] = field(default_factory=dict)

    def of(self, name: str) -> list[tuple[int, Finding]]:
        """Return the faults that cover a tensor, each with its number from 1."""
        return [
            (number, finding)
            for number, finding in enumerate(self.findings, 1)
            if finding.severity == "fault" and name in finding.tensors
        ]
