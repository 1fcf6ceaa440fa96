"""The base class of screens where a finding may cover what is under the cursor."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.mending import why_no_conversion

if TYPE_CHECKING:
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.model.session import Session

POLL_SECONDS = 0.25  # between two looks whether the diagnosis has ended


class CoveredScreen(BaseScreen[None]):
    """A screen with keys for the finding of what is under its cursor, and for its conversion."""

    session: Session
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "f",
            "finding",
            "Finding",
            id="covered.finding",
            tooltip="what is wrong with what is under the cursor, why, and how to mend it",
        ),
        Binding(
            "c",
            "mend",
            "Mend",
            id="covered.mend",
            tooltip="write the checkpoint once more, without the fault that is under the cursor",
        ),
    ]

    @property
    @abstractmethod
    def covering(self) -> list[tuple[int, Finding]]:
        """The findings that cover what is under the cursor, each with its number from 1."""

    @property
    @abstractmethod
    def covered_words(self) -> str:
        """What is under the cursor, as the subject of a sentence: "this tensor"."""

    @property
    def number(self) -> int | None:
        """The number of the first finding that covers what is under the cursor."""
        found = self.covering if self.is_mounted else []
        return found[0][0] if found else None

    def on_mount(self) -> None:
        self._known: Diagnosis = self.session.diagnosis
        self.set_interval(POLL_SECONDS, self._look)

    def _look(self) -> None:
        if self._known is not self.session.diagnosis:
            self._known = self.session.diagnosis
            self.diagnosis_changed()

    def diagnosis_changed(self) -> None:
        """Show findings that were not known before."""
        self.refresh_bindings()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "mend" and self.number not in self.session.diagnosis.targets:
            return False  # not in the key line; pressing the key shows why
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action not in ("finding", "mend"):
            return None
        what = "Finding" if action == "finding" else "Mend"
        number = self.number
        if number is None:
            return f"{what}: {self._no_finding()}"
        if action == "finding":
            return None
        why = why_no_conversion(self.session, number, here="f shows what mends it.")
        if why is None and self.app.is_converting:
            why = "another conversion is running."
        return None if why is None else f"{what}: {why}"

    def _no_finding(self) -> str:
        """Return why there is no finding for what is under the cursor."""
        session = self.session
        if session.browsing:
            return "this is one checkpoint. Open two to compare them."
        if session.diagnosis_state == "looking":
            return "still looking for the cause."
        if session.diagnosis_state in ("stopped", "failed"):
            return "the search for the cause did not end. f in the tensors looks again."
        if session.phase != "done":
            return "the comparison has not ended."
        return f"none is about {self.covered_words}."

    def action_finding(self) -> None:
        self.app.show_findings(self.session, self.number or 1)

    def action_mend(self) -> None:
        self.app.show_convert(self.session, self.number)
