"""Both sides and the results so far."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

from ckptdiff.report.diff import GLYPH, WORD
from ckptdiff.tui.model.diagnosis import Diagnosis
from ckptdiff.tui.model.inventory import Inventory, Layer
from ckptdiff.tui.model.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Checkpoint, Entry
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.model.diagnosis import State

Side = Literal["a", "b"]
Phase = Literal["reading", "matching", "ready", "comparing", "stopped", "done", "failed"]

# `to do`, `comparing` and `not compared`, where something broke before, exist on the screen only.
GLYPHS: dict[str, str] = dict([*GLYPH.items(), ("to_do", "."), ("comparing", "*"), ("undone", "?")])
WORDS: dict[str, str] = dict(
    [*WORD.items(), ("to_do", "to do"), ("comparing", "comparing"), ("undone", "not compared")]
)
DIFFERENCES: frozenset[str] = frozenset({"differ", "shape", "only_a", "only_b", "error"})
URGENCY = (
    "error", "differ", "shape", "only_a", "only_b", "close", "same", "comparing", "undone", "to_do",
)  # fmt: skip


class Comparison:
    """One checkpoint or two. Written by the UI thread only."""

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
        self.optimizer = False  # the state of the optimizers is compared too
        self.matched = (0, 0)  # tensors read to find equal rows, tensors in all
        self.headers: dict[Side, tuple[int, int]] = {}  # files read, files there are
        self.in_part = False  # `a` is only the first of its files
        self.a: Assembled | None = None
        self.b: Assembled | None = None
        self.inventory = Inventory()
        self.config: Sequence[ConfigDiff] = ()  # the lines of the config table, once both are open
        self.results: dict[str, TensorDiff] = {}
        self.compared_at: dict[str, float] = {}  # for results of an earlier run: when, in Unix time
        self.comparing: frozenset[str] = frozenset()
        self.counts: Counter[str] = Counter()  # by status, `to_do` and `comparing` too
        self.progress = Progress(clock)
        self.summary: DiffSummary | None = None  # once everything is compared
        self.diagnosis = Diagnosis()  # the causes, once they were looked for
        self.diagnosis_state: State = "none"
        self.diagnosis_error: str | None = None
        self._make_executor = make_executor
        self._executor: Executor | None = None
        self._lock = threading.Lock()

    @property
    def browsing(self) -> bool:
        """True for one checkpoint alone."""
        return len(self.paths) == 1

    @property
    def is_busy(self) -> bool:
        """True while something runs that can be stopped."""
        comparing = self.phase in ("reading", "matching", "comparing")
        return comparing or self.diagnosis_state == "looking"

    @property
    def has_faults(self) -> bool:
        """True if there is something whose cause can be looked for."""
        return bool(self.differences or self.conflicts)

    @property
    def executor(self) -> Executor:
        """The worker pool, made on first use. Ask for it in a thread: starting it blocks."""
        with self._lock:
            if self._executor is None:
                self._executor = self._make_executor()
            return self._executor

    def read_entries(self, checkpoint: Checkpoint) -> Sequence[Entry]:
        """Return what is in a checkpoint beside its weights. Reads files: call it in a thread."""
        from ckptdiff.formats import read_entries

        return read_entries(checkpoint)

    def close(self) -> None:
        """Stop the workers without waiting for what they are doing."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None

    # ── the two sides ────────────────────────────────────────────────────────────────────────

    def open(
        self,
        inventory: Inventory,
        a: Assembled | None,
        b: Assembled | None = None,
        config: Sequence[ConfigDiff] = (),
    ) -> None:
        """Take the sides that are open. The first is shown while the other is being read."""
        self.a, self.b = a, b
        self.config = config
        self.inventory = inventory
        self.forget()

    def reopen(self) -> None:
        """Show nothing but that headers are being read."""
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
        """Return the layer whose head a name is folded under, if there is one."""
        layer = self.inventory.layer_of.get(name)
        return layer if layer is not None and layer.title else None

    def nbytes(self, name: str) -> int:
        """Return the bytes of a tensor, of both sides together."""
        return self.inventory.sizes.get(name, 0)

    def assemblies(self, name: str) -> tuple[Assembly | None, Assembly | None]:
        """Return the recipe of a tensor on each side; None where that side lacks it."""
        return (
            None if self.a is None else self.a.tensors.get(name),
            None if self.b is None else self.b.tensors.get(name),
        )

    def layout_error(self, name: str) -> str | None:
        """Return what is wrong with a tensor's layout, on one side or the other."""
        for side in (self.a, self.b):
            if side is not None and name in side.errors:
                return side.errors[name].text
        return None

    # ── results ──────────────────────────────────────────────────────────────────────────────

    def start(self, names: Iterable[str]) -> None:
        """Begin comparing these names; what is known about the others stays."""
        names = list(names)
        self.phase = "comparing"
        self.error = None
        self.summary = None
        self._recount("undone", "to_do")
        self.progress.start(sum(map(self.nbytes, names)), len(names))

    def add(self, result: TensorDiff, *, compared_at: float | None = None) -> None:
        """Take one result, from a worker or, with its time, from an earlier run."""
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
        """Drop every result, to compare again."""
        self.results.clear()
        self.compared_at.clear()
        self.summary = None
        self.comparing = frozenset()
        self.counts = Counter(to_do=len(self.names))
        for layer in self.layers:
            layer.clear()

    def forget_diagnosis(self) -> None:
        """Drop the causes: what they explain is compared again."""
        self.diagnosis, self.diagnosis_state, self.diagnosis_error = Diagnosis(), "none", None

    def finish(
        self,
        phase: Literal["stopped", "done", "failed"],
        *,
        summary: DiffSummary | None = None,
        error: str | None = None,
    ) -> None:
        """End the comparison: whole, stopped by the user, or broken."""
        self.phase = phase
        self.summary = summary
        self.error = error
        self.comparing = frozenset()
        self.progress.finish()
        if phase == "failed":
            self._recount("to_do", "undone")

    def _recount(self, old: str, new: str) -> None:
        """Count what has one of these statuses under the other."""
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
        """Return the status to show: the result's, or what there is in place of one."""
        result = self.results.get(name)
        if result is not None:
            return result.status
        if self.browsing and self.layout_error(name) is not None:
            return "error"
        if self.phase == "failed":
            return "undone"
        return "comparing" if name in self.comparing else "to_do"

    def is_difference(self, name: str) -> bool:
        """Ask whether a compared tensor is more than a cast away from equal."""
        result = self.results.get(name)
        return result is not None and result.status in DIFFERENCES

    @property
    def compared(self) -> int:
        """How many tensors have a result."""
        return len(self.results)

    @property
    def differences(self) -> int:
        """How many differences are known so far, names that no rule knows included."""
        return sum(self.counts[word] for word in DIFFERENCES) + len(self.inventory.unmapped)

    @property
    def conflicts(self) -> int:
        """How many lines of the configs conflict."""
        return sum(line.status == "conflict" for line in self.config)

    def to_do(self) -> list[str]:
        """Return the names without a result, in model order."""
        return [name for name in self.names if name not in self.results]


def tally(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the statuses that occur and how often, the most urgent first."""
    return [(status, counts[status]) for status in URGENCY if counts.get(status)]
