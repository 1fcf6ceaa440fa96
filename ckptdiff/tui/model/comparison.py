"""The state of a comparison: both sides, and the results so far."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.tui.model.diagnosis import Diagnosis
from ckptdiff.tui.model.inventory import Inventory, Layer
from ckptdiff.tui.model.pool import Pool
from ckptdiff.tui.model.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Checkpoint, Entry
    from ckptdiff.comparison.inspect import Glance
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.model.diagnosis import State

Side = Literal["a", "b"]
Phase = Literal["reading", "matching", "ready", "comparing", "stopped", "done", "failed"]

# Three statuses exist on the screen only. `undone`: the comparison failed before this tensor.
GLYPHS: dict[str, str] = dict([*GLYPH.items(), ("to_do", "."), ("comparing", "*"), ("undone", "?")])
WORDS: dict[str, str] = dict(
    [*WORD.items(), ("to_do", "to do"), ("comparing", "comparing"), ("undone", "not compared")]
)
DIFFERENCES: frozenset[str] = frozenset(
    {"matched", "packed", "differ", "shape", "only_a", "only_b", "error"}
)
URGENCY = (  # statuses, the most urgent first
    "error", "differ", "shape", "only_a", "only_b", "packed", "matched", "close", "same",
    "comparing", "undone", "to_do",
)  # fmt: skip


class Comparison:
    """One opened checkpoint, or two and their comparison. Only the UI thread writes it."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        make_executor: Callable[[], Executor],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.paths = tuple(paths)
        self.clock = clock
        self.now = now
        self.phase: Phase = "reading"
        self.error: str | None = None  # why the phase is `failed`
        self.tolerance = "cast"
        self.optimizer = False  # compare optimizer state too
        self.adapter: Path | None = None  # that is added to A's weights while they are read
        self.matched = (0, 0)  # tensors read to find equal rows, all tensors
        self.headers: dict[Side, tuple[int, int]] = {}  # files read, all files
        self.in_part = False  # `a` holds the tensors of its first file only
        self.a: Assembled | None = None
        self.b: Assembled | None = None
        self.inventory = Inventory()
        self.config: Sequence[ConfigDiff] = ()  # the lines of the config table, once both are open
        self.results: dict[str, TensorDiff] = {}
        self.compared_at: dict[str, float] = {}  # of cached results, in Unix time
        self.comparing: frozenset[str] = frozenset()
        self.counts: Counter[str] = Counter()  # of tensors, by status
        # Of tensors that one side alone has: what was read of them, or why they cannot be read.
        self.glances: dict[str, Glance | str] = {}
        self.progress = Progress(clock)
        self.summary: DiffSummary | None = None  # set when all tensors have a result
        self.diagnosis = Diagnosis()  # empty before the diagnosis is done
        self.diagnosis_state: State = "none"
        self.diagnosis_error: str | None = None
        self._pool = Pool(make_executor)

    @property
    def browsing(self) -> bool:
        """Whether only one checkpoint is open."""
        return len(self.paths) == 1

    @property
    def is_busy(self) -> bool:
        """Whether something runs that can be stopped."""
        comparing = self.phase in ("reading", "matching", "comparing")
        return comparing or self.diagnosis_state == "looking"

    @property
    def has_faults(self) -> bool:
        """Whether there is something to diagnose. Packed weights are not: none was compared."""
        summary = self.summary
        told = summary is not None and (
            summary.names_status == "wrapped" or summary.files_status == "damaged"
        )
        short = any(side is not None and side.shortfall for side in (self.a, self.b))
        return self.differences > self.counts["packed"] or self.conflicts > 0 or told or short

    @property
    def executor(self) -> Executor:
        """The worker pool, started on first use. Starting blocks: call this in a thread."""
        return self._pool.get()

    def read_entries(self, checkpoint: Checkpoint) -> Sequence[Entry]:
        """Return what a checkpoint holds beside weights. Reads files: call this in a thread."""
        from ckptdiff.formats import read_entries

        return read_entries(checkpoint)

    def close(self) -> None:
        """Stop the workers without waiting for their jobs."""
        self._pool.close()

    # ── the two sides ────────────────────────────────────────────────────────────────────────

    def open(
        self,
        inventory: Inventory,
        a: Assembled | None,
        b: Assembled | None = None,
        config: Sequence[ConfigDiff] = (),
    ) -> None:
        """Set the sides that are open, and drop all results. A may be set before B is read."""
        self.a, self.b = a, b
        self.config = config
        self.inventory = inventory
        self.glances.clear()
        self.forget()

    def reopen(self) -> None:
        """Return to the phase `reading`. The sides and results of before stay until `open`."""
        self.headers.clear()
        self.phase = "reading"
        self.error = None
        self._recount("undone", "to_do")

    @property
    def names(self) -> Sequence[str]:
        """The canonical names of both sides, in model order."""
        return self.inventory.names

    @property
    def layers(self) -> Sequence[Layer]:
        return self.inventory.layers

    def layer_of(self, name: str) -> Layer | None:
        """Return the titled layer that a name belongs to, if any."""
        layer = self.inventory.layer_of.get(name)
        return layer if layer is not None and layer.title else None

    def nbytes(self, name: str) -> int:
        """Return the bytes of a tensor, both sides added up."""
        return self.inventory.sizes.get(name, 0)

    def assemblies(self, name: str) -> tuple[Assembly | None, Assembly | None]:
        """Return the recipe of a tensor on each side; None for a side that lacks it."""
        return (
            None if self.a is None else self.a.tensors.get(name),
            None if self.b is None else self.b.tensors.get(name),
        )

    def only_assembly(self, name: str) -> Assembly | None:
        """Return the recipe of a tensor that one side alone has; else None."""
        a, b = self.assemblies(name)
        return None if a is not None and b is not None else a or b

    def layout_error(self, name: str) -> str | None:
        """Return why a tensor could not be assembled on A, or else on B; None if it could."""
        for side in (self.a, self.b):
            error = None if side is None else side.errors.get(name)
            if error is not None and error.kind != "packed":
                return error.text
        return None

    # ── results ──────────────────────────────────────────────────────────────────────────────

    def start(self, names: Iterable[str]) -> None:
        """Begin to compare these names. Results of the others stay."""
        names = list(names)
        self.phase = "comparing"
        self.error = None
        self.summary = None
        self._recount("undone", "to_do")
        self.progress.start(sum(map(self.nbytes, names)), len(names))

    def add(self, result: TensorDiff, *, compared_at: float | None = None) -> None:
        """Add one result; `compared_at` is given for a cached one, in Unix time."""
        name = result.name
        self._count(name, self.status(name), -1)
        self.results[name] = result
        self._count(name, result.status, 1)
        layer = self.inventory.layer_of.get(name)
        if layer is not None:
            layer.add(result)
        if compared_at is not None:
            self.compared_at[name] = compared_at
            return
        self.compared_at.pop(name, None)
        self.progress.add(self.nbytes(name))

    def forget(self) -> None:
        """Drop every result."""
        self.results.clear()
        self.compared_at.clear()
        self.summary = None
        self.comparing = frozenset()
        self.counts = Counter(to_do=len(self.names))
        for layer in self.layers:
            layer.clear()

    def forget_diagnosis(self) -> None:
        """Drop the diagnosis, before its tensors are compared again."""
        self.diagnosis, self.diagnosis_state, self.diagnosis_error = Diagnosis(), "none", None

    def finish(
        self,
        phase: Literal["stopped", "done", "failed"],
        *,
        summary: DiffSummary | None = None,
        error: str | None = None,
    ) -> None:
        """End the comparison."""
        self.phase = phase
        self.summary = summary
        self.error = error
        self.comparing = frozenset()
        self.progress.finish()
        if phase == "failed":
            self._recount("to_do", "undone")

    def _recount(self, old: str, new: str) -> None:
        """Count the tensors of one status under another, overall and in each layer."""
        for counts in (self.counts, *(layer.counts for layer in self.layers)):
            if count := counts.pop(old, 0):
                counts[new] += count

    def _count(self, name: str, status: str, by: int) -> None:
        self.counts[status] += by
        layer = self.inventory.layer_of.get(name)
        if layer is not None:
            layer.counts[status] += by

    def result(self, name: str) -> TensorDiff | None:
        return self.results.get(name)

    def status(self, name: str) -> str:
        """Return the status to show: the result's, or without one that of the phase."""
        result = self.results.get(name)
        if result is not None:
            return result.status
        if self.browsing and self.layout_error(name) is not None:
            return "error"
        if self.phase == "failed":
            return "undone"
        return "comparing" if name in self.comparing else "to_do"

    def is_difference(self, name: str) -> bool:
        """Return whether a tensor has a result, neither the same nor close."""
        result = self.results.get(name)
        return result is not None and result.status in DIFFERENCES

    @property
    def compared(self) -> int:
        """The number of tensors that have a result."""
        return len(self.results)

    @property
    def differences(self) -> int:
        """The number of differences so far, unmapped names included."""
        return sum(self.counts[word] for word in DIFFERENCES) + len(self.inventory.unmapped)

    @property
    def conflicts(self) -> int:
        """The number of lines of the config table that conflict."""
        return sum(line.status == "conflict" for line in self.config)


def tally(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the statuses that occur with their counts, the most urgent first."""
    return [(status, counts[status]) for status in URGENCY if counts.get(status)]
