"""A conversion as the dialogs show it: the draft, its plan, and the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.programs import DEFAULT
from ckptdiff.text import format_bytes, printable, shell_line
from ckptdiff.tui.model.progress import Progress
from ckptdiff.tui.words import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.errors import Hint
    from ckptdiff.tui.model.session import Session

Stage = Literal["writing", "verifying", "stopping", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class ConversionDraft:
    """What the form's fields state: what to convert, into what, and where."""

    source: Path
    target: Target
    out: Path | None = None  # None: propose a folder
    like: Path | None = None  # a Hugging Face folder that supplies config and tokenizer


def mending_draft(session: Session, number: int | None) -> ConversionDraft | None:
    """Return the draft that writes B once more without a fault; None if no conversion does."""
    target = None if number is None else session.diagnosis.targets.get(number)
    if target is None or session.a is None:
        return None
    like = session.paths[0] if session.a.checkpoint.convention == "hf" else None
    return ConversionDraft(session.paths[1], target, like=like)


def reference_of(session: Session, draft: ConversionDraft) -> Path | None:
    """Return A if the draft takes faults out of B: what is written should be the same as A."""
    is_mending = bool(draft.target.undo) and not session.browsing
    return session.paths[0] if is_mending and draft.source == session.paths[1] else None


def stated_target(
    choices: Mapping[str, str],
    sizes: Mapping[str, int | None],
    undo: tuple[Remap, ...],
    kept: Target | None,
    *,
    lent: bool,
) -> Target:
    """Return the target that the fields of the form state.

    `kept` is the target of the draft, for what has no field. `lent` tells whether another folder
    lends its config.
    """
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.conversion.plan import Target

    changes: dict[str, Any] = {
        "to": choices["to"],
        "dtype": choices["dtype"] or None,
        "undo": undo,
        "allow_unmapped": choices["unmapped"] == "yes",
        "allow_incomplete": choices["incomplete"] == "yes",
        "overwrite": choices["replace"] == "yes",
    }
    if choices["to"] == "hf":
        changes |= {"parallelism": Parallelism(), "names": None, "version": DEFAULT}
    else:
        tp, pp, vpp, ep, etp = (sizes[name] for name in ("tp", "pp", "vpp", "ep", "etp"))
        size = Parallelism(tp or 1, pp or 1, vpp or 1, ep or 1, etp or tp or 1)
        changes |= {"parallelism": size, "names": choices["names"] or None}
        changes["version"] = choices["version"]
    if choices["to"] != "hf" or lent:
        changes["family"] = None  # it is chosen for no other conversion
    return replace(kept or Target("hf"), **changes)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The plan for a draft, or the error why there is none."""

    draft: ConversionDraft
    out: Path
    command: tuple[str, ...]  # the same as a command line
    conversion: Conversion | None = None
    error: str | None = None
    hint: Hint | None = None  # how the error can be got round
    free: int = 0  # bytes on the disk of `out`
    replaces: bool = False  # `out` holds something, which will be removed

    @property
    def command_line(self) -> str:
        return shell_line(self.command)

    @property
    def words(self) -> str:
        """The notes on what will be written, or the error."""
        if self.conversion is None:
            return f"x {printable(self.error or '')}"
        return "\n".join(f"- {printable(note)}" for note in self.conversion.notes)

    @property
    def fits(self) -> bool:
        return self.conversion is not None and self.conversion.nbytes <= self.free

    @property
    def space(self) -> str:
        """The bytes needed and those free."""
        if self.conversion is None:
            return ""
        needed = f"{format_bytes(self.conversion.nbytes)} needed, {format_bytes(self.free)} free"
        if not self.fits:
            needed = f"! {needed}: not enough"
        return f"{needed}; what {short_path(self.out)} holds goes" if self.replaces else needed


class ConversionRun:
    """A conversion that was started. Only the UI thread writes it.

    `reference` is what its result should be the same as, where that is not the source.
    """

    def __init__(
        self,
        number: int,
        plan: ConversionPlan,
        clock: Callable[[], float],
        reference: Path | None = None,
    ) -> None:
        assert plan.conversion is not None
        self.number = number
        self.plan = plan
        self.reference = reference
        self.conversion = plan.conversion
        self.stage: Stage = "writing"
        self.file = ""  # being written; or the tensor being verified
        self.kept = 0  # bytes that an earlier, interrupted run has written
        self.lines: tuple[str, ...] = ()  # the report at the end
        self.error: str | None = None
        self.ended_unseen = False  # while its screen was not open
        self.progress = Progress(clock)
        self.progress.start(self.conversion.nbytes, len(self.conversion.files))

    @property
    def is_busy(self) -> bool:
        return self.stage in ("writing", "verifying", "stopping")

    def advance(self, stage: Stage, file: str, done: int, kept: int) -> None:
        """Set the progress. `kept` bytes are left out of it, since they would distort the rate."""
        if self.stage == "stopping":
            return
        if stage != self.stage:
            self.stage = stage
            self.progress.start(2 * self.conversion.source.nbytes, 0)  # both sides are read
        elif stage == "writing" and kept != self.kept:
            self.kept = kept
            self.progress.bytes_total = self.conversion.nbytes - kept
        self.file = file
        self.progress.bytes_done = done

    def end(self, stage: Stage, lines: tuple[str, ...], error: str | None) -> None:
        self.stage = stage
        self.lines = lines
        self.error = error
        self.progress.finish()

    @property
    def words(self) -> str:
        """The current stage, or the outcome."""
        out = short_path(self.plan.out)
        if self.stage == "writing":
            kept = f"  ({format_bytes(self.kept)} kept from before)" if self.kept else ""
            return f"writing {printable(self.file)}{kept}" if self.file else "starting ..."
        if self.stage == "verifying":
            return f"verifying {printable(self.file)}".rstrip()
        if self.stage == "stopping":
            return "Stopping, and removing what was written ..."
        if self.stage == "stopped":
            return "Stopped. What was written is removed."
        if self.stage == "failed":
            return f"x {printable(self.error or '')}"
        return "\n".join((f"= Wrote {out}.", *self.lines))

    @property
    def headline(self) -> str:
        """The current stage, or the outcome, in one line."""
        out = short_path(self.plan.out)
        if self.stage == "done":
            if self.conversion.source.shortfall:
                return f"! Converted, incomplete: {out}"
            if self.conversion.cannot:
                from ckptdiff.conversion.command import cannot_words

                cannot = cannot_words(self.conversion.target)
                return f"! Converted and verified, but {cannot} it: {out}"
            return f"= Converted and verified: {out}"
        if self.stage == "failed":
            return f"x Not converted: {printable(self.error or '')}"
        return self.words
