"""The files of one side as a list: what each holds, and how what it fills compares."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

from ckptdiff.tui.model.comparison import DIFFERENCES, URGENCY
from ckptdiff.tui.model.folds import Folds
from ckptdiff.tui.model.name_search import name_matcher
from ckptdiff.tui.model.order import around, badness
from ckptdiff.tui.model.stored import HeldFile, HeldFiles, StoredRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.model.comparison import Comparison
    from ckptdiff.tui.model.listing import Asked, Row

TALLY_PAUSE = 20  # times as long as counting a file took, it is not counted again
_RANK_OF = {status: rank for rank, status in enumerate(URGENCY)}


@dataclass(frozen=True, slots=True)
class Tally:
    """How the tensors of a file compare, as counted in some state of the comparison."""

    state: tuple[int, str]
    counts: Counter[str]
    max_abs: float | None
    again_at: float  # the clock at which it may be counted anew, while results arrive


class FileList:
    """The rows of the view of files: a heading for each file, and the tensors of those unfolded.

    Of B, or of the one checkpoint that is open. It has the filter, the sort and the finding of its
    session. Status and figures of a row are those of the canonical tensors that it fills.
    """

    def __init__(self, session: Comparison, asked: Asked) -> None:
        self.session = session
        self.asked = asked
        self.rows: list[Row] = []
        self.shown: list[StoredRow] = []  # that pass the filter, in order, folded ones too
        self._held: HeldFiles | None = None  # listed on the first look
        self._folds = Folds[HeldFile](asked)
        self._first: HeldFile | None = None  # the first under which a difference lies
        self._tallies: dict[HeldFile, Tally] = {}

    @property
    def side(self) -> Assembled | None:
        """The side whose files these are; None while it is not open."""
        return self.session.a if self.session.browsing else self.session.b

    @property
    def files(self) -> Sequence[HeldFile]:
        """The files; none while they are not listed."""
        return self._held.files if self._held is not None and self.is_listed else ()

    @property
    def is_listed(self) -> bool:
        """Whether these are the files of the side that is open now."""
        return self._held is not None and self._held.side is self.side

    def show(self, held: HeldFiles, tallies: Mapping[HeldFile, Tally] | None = None) -> None:
        """Set the files, with none of them touched, and what was counted of them already."""
        self._held = held
        self._folds.clear()
        self._tallies = dict(tallies or {})
        self._first = None

    # ── what a row says ──────────────────────────────────────────────────────────────────────

    def status(self, row: StoredRow) -> str:
        """Return the most urgent status of what a tensor fills; "" if there is nothing to say."""
        session = self.session
        if row.use == "unmapped" and not session.browsing:
            return "only_b"
        if not row.fills:
            return ""
        found = [session.status(name) for name in row.fills]
        return found[0] if len(found) == 1 else min(found, key=_RANK_OF.__getitem__)

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
        known = self._tallies.get(held)
        is_late = session.phase != "comparing" or known is None or time.monotonic() > known.again_at
        if known is None or (known.state != (session.compared, session.phase) and is_late):
            known = self._tallies[held] = self.count(held)
        return known.counts, known.max_abs

    def count(self, held: HeldFile) -> Tally:
        """Count how the tensors of a file compare now. It only reads: a thread may call it.

        Those that have to wait are counted at once, since their names need not be looked at.
        """
        session = self.session
        started, state = time.monotonic(), (session.compared, session.phase)
        compared, comparing = session.results.keys(), session.comparing
        waiting = 0
        rows = held.tensors
        if not session.browsing:
            rows = [
                row
                for row in held.tensors
                if not (
                    row.fills and compared.isdisjoint(row.fills) and comparing.isdisjoint(row.fills)
                )
            ]
            waiting = len(held.tensors) - len(rows)
        counts = Counter(map(self.status, rows))
        counts.pop("", None)
        if waiting:
            counts["undone" if session.phase == "failed" else "to_do"] += waiting
        figures = [worst for row in rows if (worst := self.worst(row)) is not None]
        ended = time.monotonic()
        again_at = ended + TALLY_PAUSE * (ended - started)
        return Tally(state, counts, max(figures, default=None), again_at)

    def differs(self, row: StoredRow) -> bool:
        return self.status(row) in DIFFERENCES

    # ── rows ─────────────────────────────────────────────────────────────────────────────────

    def arrange(self) -> None:
        """Rebuild `rows`, after a change of filter, sort or folds, or new results."""
        session, asked = self.session, self.asked
        kept = [(held, list(held.tensors)) for held in self.files]
        if asked.narrowed:
            passes = self._filter()
            kept = [(held, [row for row in rows if passes(row)]) for held, rows in kept]
            kept = [(held, rows) for held, rows in kept if rows]
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
        session, asked = self.session, self.asked
        tests: list[Callable[[StoredRow], bool]] = []
        if asked.filter:
            matches, wanted = name_matcher(asked.filter), not asked.inverted
            tests.append(lambda row: matches(row.name) is wanted)
        if asked.differences_only:
            tests.append(self.differs)
        if asked.finding is not None:
            covered = set(session.diagnosis.findings[asked.finding - 1].tensors)
            tests.append(lambda row: not covered.isdisjoint(row.fills))
        return lambda row: all(test(row) for test in tests)

    def _sorted(
        self, kept: list[tuple[HeldFile, list[StoredRow]]]
    ) -> list[tuple[HeldFile, list[StoredRow]]]:
        """Sort the tensors within each file, and the files by the first of their tensors."""
        session, asked = self.session, self.asked
        sort = asked.sort
        if sort == "model":
            return [(held, rows[::-1]) for held, rows in kept[::-1]] if asked.reverse else kept
        if sort == "size":
            kept = [
                (held, sorted(rows, key=lambda row: -row.ref.nbytes, reverse=asked.reverse))
                for held, rows in kept
            ]
            return sorted(kept, key=lambda each: -each[0].nbytes, reverse=asked.reverse)

        def badness_of(row: StoredRow) -> tuple[bool, float]:
            known = [session.results[name] for name in row.fills if name in session.results]
            worst = min((badness(result, sort) for result in known), default=inf)
            return not known, -worst if asked.reverse else worst

        in_files = [(held, sorted(rows, key=badness_of)) for held, rows in kept]
        last = (True, inf)
        return sorted(in_files, key=lambda each: badness_of(each[1][0]) if each[1] else last)

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
        default = len(self.files) == 1 or heading is self._first
        return self._folds.is_unfolded(heading, default=default)

    def fold(self, heading: HeldFile, *, unfolded: bool) -> None:
        """Show or hide the tensors of a file."""
        self._folds.put([heading], unfolded=unfolded)
        self.arrange()

    def fold_all(self, *, unfolded: bool) -> None:
        self._folds.put(self.files, unfolded=unfolded)
        self.arrange()

    # ── ways about ───────────────────────────────────────────────────────────────────────────

    def reveal(self, target: Row) -> int | None:
        """Unfold the file of a tensor and return its row number; None if the filter hides it.

        A canonical name stands for the first tensor that fills it.
        """
        holders = self._held.holders if self._held is not None and self.is_listed else {}
        row = holders.get(target) if isinstance(target, str) else target
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
        if found is None and others and (self.asked.filter or self.session.browsing):
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
