"""The diagnosis, as the screens show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ckptdiff.diagnosis.of_step import findings_of_step
from ckptdiff.results import undo_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.conversion.plan import Target
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.results import Finding, Tap

State = Literal["none", "looking", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, faults first, and the marks they leave in the tensor list."""

    findings: tuple[Finding, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)  # by tensor name and layer title
    # By the number of a finding: the target that converts B without the fault.
    targets: Mapping[int, Target] = field(default_factory=dict)

    @property
    def faults(self) -> list[tuple[int, Finding]]:
        """The faults, each with its number from 1."""
        return [(n, f) for n, f in enumerate(self.findings, 1) if f.severity == "fault"]

    @property
    def undo(self) -> tuple[Remap, ...]:
        """The re-mappings that take out all faults of B that one mends."""
        return undo_all(self.findings)

    def of(self, name: str) -> list[tuple[int, Finding]]:
        """Return the faults that cover a tensor, each with its number from 1."""
        return [(number, finding) for number, finding in self.faults if name in finding.tensors]

    def at(self, row: object, began_at: object) -> int | None:
        """Return the number of the fault that covers a row of the list.

        Where the cursor began, and no fault covers it, it is the first finding.
        """
        for number, _ in self.of(row) if isinstance(row, str) else ():
            return number
        return 1 if row is began_at and self.findings else None

    def of_setting(self, meaning: str) -> list[tuple[int, Finding]]:
        """Return the faults of a line of the config table, each with its number from 1."""
        return [(number, finding) for number, finding in self.faults if finding.setting == meaning]

    def of_step(self, tap: Tap, config: Iterable[ConfigDiff]) -> list[tuple[int, Finding]]:
        """Return the faults of the tensors that a step reads, then of the settings that move it."""
        return findings_of_step(self.findings, tap, config)
