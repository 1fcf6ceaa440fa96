"""What the screens show: both sides, the results so far and how the list is looked at."""

from __future__ import annotations

import shlex
import threading
import time
from collections import Counter
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from ckptdiff.pattern import matcher
from ckptdiff.report import GLYPH, WORD
from ckptdiff.tensors import ITEMSIZE
from ckptdiff.tui.layers import Layer, Unmapped, layers_of
from ckptdiff.tui.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assemble import Assembled, Assembly
    from ckptdiff.diff import Status, TensorDiff

Side = Literal["a", "b"]
Sort = Literal["model", "max", "cos", "size"]
# A canonical name, the head of a layer, or a native name that no rule knows.
Row = str | Layer | Unmapped
Phase = Literal["reading", "ready", "comparing", "stopped", "done", "failed"]
Shown = Literal[
    "same", "close", "differ", "shape", "only_a", "only_b", "error", "to_do", "comparing"
]  # fmt: skip

SORTS: dict[Sort, str] = {
    "model": "model order",
    "max": "largest max|d| first",
    "cos": "lowest cos first",
    "size": "largest first",
}
REVERSED: dict[Sort, str] = {
    "model": "model order, reversed",
    "max": "smallest max|d| first",
    "cos": "highest cos first",
    "size": "smallest first",
}
# `to do` and `comparing` exist on the screen only.
GLYPHS: dict[str, str] = dict([*GLYPH.items(), ("to_do", "."), ("comparing", "*")])
WORDS: dict[str, str] = dict([*WORD.items(), ("to_do", "to do"), ("comparing", "comparing")])
DIFFERENCES: frozenset[Shown] = frozenset({"differ", "shape", "only_a", "only_b", "error"})


class Session:
    """One opened checkpoint or pair. Written by the UI thread only; workers read `visible`."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        make_executor: Callable[[], Executor],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        ascii_only: bool = False,
    ) -> None:
        self.paths = tuple(paths)
        self.ascii_only = ascii_only
        self.clock = clock
        self.now = now
        self.phase: Phase = "reading"
        self.error: str | None = None  # why the phase is `failed`
        self.tolerance = "cast"
        self.a: Assembled | None = None
        self.b: Assembled | None = None
        self.headers: dict[Side, tuple[int, int]] = {}  # files read, files there are
        self.names: list[str] = []  # canonical, model order
        self.order: list[str] = []  # the names that pass the filter, as sorted; folds do not matter
        self.rows: list[Row] = []  # what the list shows
        self.layers: list[Layer] = []
        self.results: dict[str, TensorDiff] = {}
        self.compared_at: dict[str, float] = {}  # for results of an earlier run: when, in Unix time
        self.comparing: frozenset[str] = frozenset()
        self.visible: tuple[str, ...] = ()  # replaced whole, so that workers may read it
        self.counts: Counter[Shown] = Counter()
        self.progress = Progress(clock)
        self.filter = ""
        self.inverted = False  # the filter shows what does not match
        self.sort: Sort = "model"
        self.reverse = False
        self.differences_only = False
        self._make_executor = make_executor
        self._executor: Executor | None = None
        self._lock = threading.Lock()
        self._layer_of: dict[str, Layer] = {}
        self._unmapped: list[Unmapped] = []
        self._folds: dict[str, bool] = {}  # what the user folded and unfolded
        self._narrow_folds: dict[
            str, bool
        ] = {}  # the same while a filter or `differences only` is on

    # ── the two sides ────────────────────────────────────────────────────────────────────────

    @property
    def browsing(self) -> bool:
        """True for one checkpoint alone."""
        return len(self.paths) == 1

    @property
    def executor(self) -> Executor:
        """The worker pool, made on first use. Ask for it in a thread: starting it blocks."""
        with self._lock:
            if self._executor is None:
                self._executor = self._make_executor()
            return self._executor

    def close(self) -> None:
        """Stop the workers without waiting for what they are doing."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None

    def open_side(self, side: Side, assembled: Assembled) -> None:
        """Take one side; its names are shown at once, before the other side is read."""
        if side == "a":
            self.a = assembled
        else:
            self.b = assembled
        self._take_names(list(assembled.tensors))

    def open_pair(self, a: Assembled, b: Assembled, names: Sequence[str]) -> None:
        """Take both sides and the canonical names of both, in model order."""
        self.a, self.b = a, b
        self._take_names(list(names))

    def _take_names(self, names: list[str]) -> None:
        self.names = names
        known = set(names)
        self.results = {name: r for name, r in self.results.items() if name in known}
        self.layers, self._layer_of = layers_of(names)
        self._unmapped = []
        sides: tuple[tuple[Side, Assembled | None], ...] = (("a", self.a), ("b", self.b))
        for side, assembled in sides:
            if assembled is not None:
                self._unmapped += [Unmapped(side, name) for name in assembled.unmapped]
        self.counts = Counter({"to_do": len(names)})
        for result in self.results.values():
            self._count(result.name, "to_do", -1)
            self._count(result.name, result.status, 1)
            self._layer_of[result.name].add(result)
        self.arrange()

    def assemblies(self, name: str) -> tuple[Assembly | None, Assembly | None]:
        """Return the recipe of a tensor on each side; None where that side lacks it."""
        return (
            None if self.a is None else self.a.tensors.get(name),
            None if self.b is None else self.b.tensors.get(name),
        )

    def nbytes(self, name: str) -> int:
        """Return the bytes of a tensor, of both sides together."""
        return sum(_nbytes(assembly) for assembly in self.assemblies(name) if assembly is not None)

    @property
    def unmapped(self) -> Sequence[Unmapped]:
        """The native names that no rule knows, of both sides: each counts as a difference."""
        return self._unmapped

    # ── results ──────────────────────────────────────────────────────────────────────────────

    def start(self, names: Sequence[str]) -> None:
        """Begin comparing these names; what is known about the others stays."""
        self.phase = "comparing"
        self.error = None
        self.progress.start(sum(map(self.nbytes, names)), len(names))

    def add(self, result: TensorDiff, *, compared_at: float | None = None) -> None:
        """Take one result, from a worker or, with its time, from an earlier run."""
        old = self.status(result.name)
        self.results[result.name] = result
        self._count(result.name, old, -1)
        self._count(result.name, result.status, 1)
        layer = self._layer_of.get(result.name)
        if layer is not None:
            layer.add(result)
        if compared_at is None:
            self.compared_at.pop(result.name, None)
            self.progress.add(self.nbytes(result.name))
        else:
            self.compared_at[result.name] = compared_at

    def forget(self) -> None:
        """Drop every result, to compare again."""
        self.results.clear()
        self.compared_at.clear()
        self._take_names(self.names)

    def finish(self, phase: Literal["stopped", "done", "failed"], error: str | None = None) -> None:
        """End the comparison: whole, stopped by the user, or broken."""
        self.phase = phase
        self.error = error
        self.comparing = frozenset()
        self.progress.finish()

    def _count(self, name: str, status: Shown, by: int) -> None:
        self.counts[status] += by
        layer = self._layer_of.get(name)
        if layer is not None:
            layer.counts[status] += by

    def result(self, name: str) -> TensorDiff | None:
        return self.results.get(name)

    def status(self, name: str) -> Shown:
        """Return the status to show: the result's, or `comparing` or `to_do`."""
        result = self.results.get(name)
        if result is not None:
            return result.status
        return "comparing" if name in self.comparing else "to_do"

    def is_difference(self, name: str) -> bool:
        """Ask whether a compared tensor is more than a cast away from equal."""
        result = self.results.get(name)
        return result is not None and result.status in DIFFERENCES

    @property
    def compared(self) -> int:
        return len(self.results)

    @property
    def differences(self) -> int:
        """How many differences are known so far, names that no rule knows included."""
        return sum(self.counts[status] for status in DIFFERENCES) + len(self._unmapped)

    def to_do(self) -> list[str]:
        """Return the names without a result, in model order."""
        return [name for name in self.names if name not in self.results]

    # ── how the list is looked at ────────────────────────────────────────────────────────────

    @property
    def narrowed(self) -> bool:
        """True while the list shows only a part of the names."""
        return bool(self.filter) or self.differences_only

    @property
    def flat(self) -> bool:
        """True while the list is sorted across layers, so that layers make no sense."""
        return self.sort != "model" or self.reverse

    def set_filter(self, text: str) -> None:
        """Show names that match, or with a leading `!` those that do not. Raises BadArgument."""
        text = text.strip()
        inverted, pattern = text.startswith("!"), text.removeprefix("!").strip()
        matcher(pattern)  # raises before anything is changed
        self.filter, self.inverted = pattern, inverted and bool(pattern)
        self._narrow_folds.clear()
        self.arrange()

    def arrange(self) -> None:
        """Work out the rows again: after a filter, a sort, a fold, new results in a sorted list."""
        names: Iterable[str] = self.names
        unmapped: Iterable[Unmapped] = self._unmapped
        if self.filter:
            matches, wanted = matcher(self.filter), not self.inverted
            names = [name for name in names if matches(name) is wanted]
            unmapped = [row for row in unmapped if matches(row.name) is wanted]
        if self.differences_only:
            results = self.results
            names = [n for n in names if n in results and results[n].status in DIFFERENCES]
        self.order = self._sorted(list(names))
        self.rows = list(self.order) if self.flat else self._folded_rows()
        self.rows += unmapped

    def _sorted(self, names: list[str]) -> list[str]:
        if self.sort == "model":
            return names[::-1] if self.reverse else names
        known = [(key, name) for name in names if (key := self._key(name)) is not None]
        unknown = [name for name in names if self._key(name) is None]
        known.sort(key=lambda pair: pair[0], reverse=self.reverse)
        return [name for _, name in known] + unknown

    def _key(self, name: str) -> float | None:
        """Return what to sort by, the worst lowest; None if it is not known yet."""
        if self.sort == "size":
            return -float(self.nbytes(name))
        result = self.results.get(name)
        if result is None:
            return None
        if result.numbers is None:  # shape, only in one, error: worse than any number
            return -inf
        return -result.numbers.max_abs if self.sort == "max" else result.numbers.cosine

    def _folded_rows(self) -> list[Row]:
        rows: list[Row] = []
        if not self.narrowed:
            for layer in self.layers:
                if layer.title:
                    rows.append(layer)
                if not layer.title or self.is_unfolded(layer):
                    rows += layer.names
            return rows
        head = None
        for name in self.order:
            layer = self._layer_of[name]
            if layer is not head:
                head = layer
                if layer.title:
                    rows.append(layer)
            if not layer.title or self.is_unfolded(layer):
                rows.append(name)
        return rows

    def is_unfolded(self, layer: Layer) -> bool:
        """Ask whether a layer's tensors are shown: by default the first layer's, or all matches."""
        if self.narrowed:
            return self._narrow_folds.get(layer.title, True)
        return self._folds.get(layer.title, layer.is_first)

    def fold(self, layer: Layer, *, unfolded: bool) -> None:
        """Show or hide a layer's tensors."""
        (self._narrow_folds if self.narrowed else self._folds)[layer.title] = unfolded
        self.arrange()

    def fold_all(self, *, unfolded: bool) -> None:
        folds = self._narrow_folds if self.narrowed else self._folds
        folds.update((layer.title, unfolded) for layer in self.layers)
        self.arrange()

    def layer_of(self, name: str) -> Layer | None:
        """Return the layer whose head a name is folded under, if there is one."""
        layer = self._layer_of.get(name)
        return layer if layer is not None and layer.title else None

    def reveal(self, name: str) -> int | None:
        """Unfold what hides a name and return its row; None if the filter hides it."""
        layer = self.layer_of(name)
        if layer is not None and not self.flat and not self.is_unfolded(layer):
            self.fold(layer, unfolded=True)
        try:
            return self.rows.index(name)
        except ValueError:
            return None

    def position(self, name: str) -> int:
        """Return the place of a name in the list, from 1, folded layers counted; 0 if hidden."""
        try:
            return self.order.index(name) + 1
        except ValueError:
            return 0

    def next_difference(self, name: str | None, step: Literal[1, -1] = 1) -> str | None:
        """Return the difference after (or before) a name in the list, going round at its end.

        In a single checkpoint, which has no differences, it is the next name in the list.
        """
        count = len(self.order)
        at = self.position(name) - 1 if name is not None else -1
        if at < 0:
            at = -1 if step > 0 else count
        wanted = (lambda _: True) if self.browsing else self.is_difference
        for distance in range(1, count + 1):
            candidate = self.order[(at + step * distance) % count]
            if wanted(candidate):
                return candidate
        return None

    # ── words ────────────────────────────────────────────────────────────────────────────────

    def command_line(self, name: str | None = None) -> str:
        """Return the shell command that says the same without the screen."""
        verb = "ls" if self.browsing else "diff"
        words = ["ckptdiff", verb, *map(str, self.paths)]
        if self.tolerance != "cast":
            words += ["--tolerance", self.tolerance]
        if name is not None:
            words += ["--filter", name]
        return shlex.join(words)


def _nbytes(assembly: Assembly) -> int:
    return prod(assembly.shape) * ITEMSIZE[assembly.dtype]


def statuses(counts: Counter[Shown]) -> list[tuple[Status, int]]:
    """Return the statuses of results that occur, the most urgent first."""
    order: tuple[Status, ...] = ("error", "differ", "shape", "only_a", "only_b", "close", "same")
    return [(status, counts[status]) for status in order if counts[status]]
