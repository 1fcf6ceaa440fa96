"""The files of one side as a list: what each holds, and how what it fills compares."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Literal

from ckptdiff.name_filter import matcher
from ckptdiff.tui.model.comparison import DIFFERENCES, URGENCY
from ckptdiff.tui.model.order import around, badness
from ckptdiff.tui.model.stored import HeldFile, StoredRow, stored_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.model.session import Row, Session

_RANK_OF = {status: rank for rank, status in enumerate(URGENCY)}


class FileList:
    """The rows of the view of files: a heading for each file, and the tensors of those unfolded.

    Of B, or of the one checkpoint that is open. It has the filter, the sort and the finding of its
    session. Status and figures of a row are those of the canonical tensors that it fills.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: list[Row] = []
        self.shown: list[StoredRow] = []  # that pass the filter, in order, folded ones too
        self._files: list[HeldFile] | None = None  # read on the first look
        self._of: Assembled | None = None  # whose they are
        self._holders: dict[str, StoredRow] = {}  # the first that fills a canonical tensor
        self._folds: dict[HeldFile, bool] = {}  # True is unfolded
        self._narrow_folds: dict[HeldFile, bool] = {}  # the same, while the list is narrowed
        self._narrowed_by: tuple[object, ...] = ()
        self._first: HeldFile | None = None  # the first under which a difference lies
        self._tallies: dict[HeldFile, tuple[object, Counter[str], float | None]] = {}

    @property
    def side(self) -> Assembled | None:
        """The side whose files these are; None while it is not open."""
        return self.session.a if self.session.browsing else self.session.b

    @property
    def files(self) -> Sequence[HeldFile]:
        side = self.side
        if side is None:
            return ()
        if self._files is None or self._of is not side:
            self._files, self._of = stored_files(side), side
            self._folds.clear()
            self._narrow_folds.clear()
            self._tallies.clear()
            self._first = None
            self._holders = {}
            for held in self._files:
                for row in held.tensors:
                    for name in row.fills:
                        self._holders.setdefault(name, row)
        return self._files

    # ── what a row says ──────────────────────────────────────────────────────────────────────

    def status(self, row: StoredRow) -> str:
        """Return the most urgent status of what a tensor fills; "" if there is nothing to say."""
        session = self.session
        if row.use == "unmapped" and not session.browsing:
            return "only_b"
        if not row.fills:
            return ""
        found = map(session.status, row.fills)
        return min(found, key=_RANK_OF.__getitem__)

    def worst(self, row: StoredRow) -> float | None:
        """Return the largest max|d| of what a tensor fills; None if none is known."""
        results = (self.session.results.get(name) for name in row.fills)
        known = [r.numbers.max_abs for r in results if r is not None and r.numbers is not None]
        return max(known, default=None)

    def name_of(self, row: Row | None) -> str | None:
        """Return the canonical tensor of a row: the most urgent of those that it fills."""
        if not isinstance(row, StoredRow) or not row.fills:
            return None
        return min(row.fills, key=lambda name: _RANK_OF[self.session.status(name)])

    def tally(self, held: HeldFile) -> tuple[Counter[str], float | None]:
        """Return how many tensors of a file have each status, and the largest max|d|."""
        session = self.session
        state = (session.compared, session.phase, session.comparing)
        known = self._tallies.get(held)
        if known is None or known[0] != state:
            counts = Counter(map(self.status, held.tensors))
            counts.pop("", None)
            figures = [worst for row in held.tensors if (worst := self.worst(row)) is not None]
            known = self._tallies[held] = state, counts, max(figures, default=None)
        return known[1], known[2]

    def differs(self, row: StoredRow) -> bool:
        return self.status(row) in DIFFERENCES

    # ── rows ─────────────────────────────────────────────────────────────────────────────────

    def arrange(self) -> None:
        """Rebuild `rows`, after a change of filter, sort or folds, or new results."""
        session = self.session
        narrowed_by = (session.filter, session.inverted, session.differences_only, session.finding)
        if narrowed_by != self._narrowed_by:
            self._narrow_folds.clear()
            self._narrowed_by = narrowed_by
        passes = self._filter()
        kept = [(held, [row for row in held.tensors if passes(row)]) for held in self.files]
        if session.narrowed:
            kept = [(held, tensors) for held, tensors in kept if tensors]
        kept = self._sorted(kept)
        if self._first is None and session.differences:
            self._first = next(
                (held for held, tensors in kept if any(map(self.differs, tensors))), None
            )
        self.rows, self.shown = [], []
        for held, tensors in kept:
            self.shown += tensors
            self.rows.append(held)
            if self.is_unfolded(held):
                self.rows += tensors

    def _filter(self) -> Callable[[StoredRow], bool]:
        session = self.session
        tests: list[Callable[[StoredRow], bool]] = []
        if session.filter:
            matches, wanted = matcher(session.filter), not session.inverted
            tests.append(lambda row: matches(row.name) is wanted)
        if session.differences_only:
            tests.append(self.differs)
        if session.finding is not None:
            covered = set(session.diagnosis.findings[session.finding - 1].tensors)
            tests.append(lambda row: not covered.isdisjoint(row.fills))
        return lambda row: all(test(row) for test in tests)

    def _sorted(
        self, kept: list[tuple[HeldFile, list[StoredRow]]]
    ) -> list[tuple[HeldFile, list[StoredRow]]]:
        """Sort the tensors within each file, and the files by the first of their tensors."""
        session = self.session
        sort = session.sort
        if sort == "model":
            return [(held, rows[::-1]) for held, rows in kept[::-1]] if session.reverse else kept
        if sort == "size":
            kept = [
                (held, sorted(rows, key=lambda row: -row.ref.nbytes, reverse=session.reverse))
                for held, rows in kept
            ]
            return sorted(kept, key=lambda each: -each[0].nbytes, reverse=session.reverse)

        def key(row: StoredRow) -> tuple[bool, float]:
            known = [session.results[name] for name in row.fills if name in session.results]
            worst = min((badness(result, sort) for result in known), default=inf)
            return not known, -worst if session.reverse else worst

        in_files = [(held, sorted(rows, key=key)) for held, rows in kept]
        last = (True, inf)
        return sorted(in_files, key=lambda each: key(each[1][0]) if each[1] else last)

    # ── folds ────────────────────────────────────────────────────────────────────────────────

    def heading_of(self, row: Row | None) -> HeldFile | None:
        """Return the file that a row belongs to."""
        return (
            row.file if isinstance(row, StoredRow) else row if isinstance(row, HeldFile) else None
        )

    def is_unfolded(self, heading: HeldFile) -> bool:
        """Return whether a file is unfolded.

        By default that is a single file, the first with a difference, and in a narrowed list all.
        """
        if self.session.narrowed:
            return self._narrow_folds.get(heading, True)
        alone = len(self.files) == 1
        return self._folds.get(heading, alone or heading is self._first)

    def fold(self, heading: HeldFile, *, unfolded: bool) -> None:
        """Show or hide the tensors of a file."""
        (self._narrow_folds if self.session.narrowed else self._folds)[heading] = unfolded
        self.arrange()

    def fold_all(self, *, unfolded: bool) -> None:
        folds = self._narrow_folds if self.session.narrowed else self._folds
        folds.update((held, unfolded) for held in self.files)
        self.arrange()

    # ── ways about ───────────────────────────────────────────────────────────────────────────

    def reveal(self, target: Row) -> int | None:
        """Unfold the file of a tensor and return its row number; None if the filter hides it.

        A canonical name stands for the first tensor that fills it.
        """
        row = self._holders.get(target) if isinstance(target, str) else target
        held = self.heading_of(row)
        if row is None or held is None:
            return None
        if row is not held and not self.is_unfolded(held):
            self.fold(held, unfolded=True)
        try:
            return self.rows.index(row)
        except ValueError:
            return None

    def next_difference(self, row: Row | None, step: Literal[1, -1] = 1) -> Row | None:
        """Return the next tensor that differs, or before it, wrapping around at the end.

        In a single checkpoint, and in a filtered list without a difference, it is the next tensor.
        """
        others = around(self.shown, self._start_index(row, step), step)
        found = next(filter(self.differs, others), None)
        if found is None and others and (self.session.filter or self.session.browsing):
            return others[0]
        return found

    def _start_index(self, row: Row | None, step: Literal[1, -1]) -> int:
        """Return the index in `shown` to search from; a heading lies before its tensors."""
        shown = self.shown
        if isinstance(row, StoredRow) and row in shown:
            return shown.index(row)
        if isinstance(row, HeldFile):
            first = next((i for i, each in enumerate(shown) if each.file is row), 0)
            return first - 1 if step > 0 else first
        return -1 if step > 0 else len(shown)

    def in_sight(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """Return the canonical tensors that rows stand for."""
        return tuple(name for row in rows if isinstance(row, StoredRow) for name in row.fills)
