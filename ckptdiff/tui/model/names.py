"""The canonical names of both sides as a list: by layer, or sorted across them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ckptdiff.tui.model.comparison import DIFFERENCES
from ckptdiff.tui.model.folds import Folds
from ckptdiff.tui.model.inventory import Layer, LayerRun, Unmapped, can_run_on, run_of
from ckptdiff.tui.model.name_search import can_be_letters, name_matcher
from ckptdiff.tui.model.order import around, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptdiff.tui.model.comparison import Comparison
    from ckptdiff.tui.model.listing import Asked, Row


class NameList:
    """The rows of the views of canonical names: a heading for each layer, and its names.

    It has the filter, the sort and the finding of its session. Unmapped names come last.
    """

    def __init__(self, session: Comparison, asked: Asked) -> None:
        self.session = session
        self.asked = asked
        self.rows: list[Row] = []
        self.order: list[str] = []  # the names that pass the filter, sorted, folded ones too
        # Nothing matches the filter as words: it shows names with its letters in order, best first.
        self.by_letters = False
        self._ranking: tuple[str, Sequence[str], list[str]] | None = None  # filter, of, found
        self._folds = Folds[str](asked)  # by layer title
        self.settled = False  # what differs is unfolded, and what does not is folded
        self._runs: dict[str, LayerRun] = {}  # by title: the folded headings of several layers
        self._parted: set[str] = set()  # the titles of layers whose run was unfolded

    @property
    def flat(self) -> bool:
        """Whether the list is sorted across layers, and so has no headings."""
        return self.asked.sort != "model" or self.asked.reverse or self.by_letters

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was done to the list yet that hides rows: no filter, no fold."""
        return not (self.asked.narrowed or self._folds or self.settled)

    def settle(self, room: int) -> bool:
        """Unfold what differs and fold the rest, or unfold all of it if `room` rows hold it.

        Called once all results are there. Without a difference the folds stay as they are. Return
        False, with nothing changed, if the user has done something to the list.
        """
        session = self.session
        if not self.is_untouched:
            return False
        everything = len(session.names) + len(session.inventory.unmapped) + len(session.layers)
        if everything <= room:
            self.fold_all(unfolded=True)
            return True
        self.settled = session.differences > 0
        self.arrange()
        return True

    def forget(self) -> None:
        """Come back to the folds from before there were results. Those of the user stay."""
        self.settled = False
        self._runs.clear()
        self._parted.clear()

    def _has_match(self, name: str, matches: Callable[[str], bool]) -> bool:
        """Return whether a canonical name, or the name that a side stores it under, matches."""
        if matches(name):
            return True
        sides = (side for side in self.session.assemblies(name) if side is not None and side.pieces)
        return any(matches(side.pieces[0].ref.name) for side in sides)

    # ── the letters of a filter ──────────────────────────────────────────────────────────────

    @property
    def is_unranked(self) -> bool:
        """Whether the names with the filter's letters have not been looked for."""
        return self.by_letters and self._letters_found() is None

    def set_ranking(self, pattern: str, names: Sequence[str], found: list[str]) -> None:
        """Set which of `names` hold the letters of a pattern, the best match first."""
        self._ranking = pattern, names, found
        self.arrange()

    def _letters_found(self) -> list[str] | None:
        if self._ranking is None:
            return None
        pattern, names, found = self._ranking
        return found if pattern == self.asked.filter and names is self.session.names else None

    # ── rows ─────────────────────────────────────────────────────────────────────────────────

    def arrange(self) -> None:
        """Rebuild `order` and `rows`, after a change of filter, sort or folds, or new results."""
        session, asked = self.session, self.asked
        names: Iterable[str] = session.names
        unmapped: Iterable[Unmapped] = session.inventory.unmapped
        self.by_letters = False
        if asked.filter:
            matches, wanted = name_matcher(asked.filter), not asked.inverted
            names = [name for name in names if self._has_match(name, matches) is wanted]
            unmapped = [row for row in unmapped if matches(row.name) is wanted]
            if wanted and not names and not unmapped and can_be_letters(asked.filter):
                self.by_letters = True
                names = self._letters_found() or ()
        if asked.differences_only:
            known = session.results
            names = [name for name in names if name in known and known[name].status in DIFFERENCES]
        if asked.finding is not None:
            covered = set(session.diagnosis.findings[asked.finding - 1].tensors)
            names = [name for name in names if name in covered]
            unmapped = ()
        self.order = ordered(
            list(names),
            asked.sort,
            reverse=asked.reverse,
            results=session.results,
            sizes=session.inventory.sizes,
        )
        self.rows = list(self.order) if self.flat else self._folded_rows()
        self.rows += unmapped

    def _folded_rows(self) -> list[Row]:
        rows: list[Row] = []
        if not self.asked.narrowed:
            for layer in self._headed():
                if layer.title:
                    rows.append(layer)
                if not layer.title or self.is_unfolded(layer):
                    rows += layer.names
            return rows
        head, shown = None, True
        layer_of = self.session.inventory.layer_of
        for name in self.order:
            layer = layer_of[name]
            if layer is not head:
                head, shown = layer, not layer.title or self.is_unfolded(layer)
                if layer.title:
                    rows.append(layer)
            if shown:
                rows.append(name)
        return rows

    def _headed(self) -> list[Layer]:
        """Return the layers of the whole list; once settled, those without a difference joined."""
        layers = self.session.layers
        if not self.settled:
            return list(layers)
        headed: list[Layer] = []
        run: list[Layer] = []
        for layer in layers:
            alone = not layer.title or self.is_unfolded(layer) or layer.title in self._parted
            alone = alone or has_difference(layer)
            if run and (alone or not can_run_on(run[-1], layer)):
                headed.append(self._joined(run))
                run = []
            if alone:
                headed.append(layer)
            else:
                run.append(layer)
        if run:
            headed.append(self._joined(run))
        return headed

    def _joined(self, layers: Sequence[Layer]) -> Layer:
        if len(layers) == 1:
            return layers[0]
        run = run_of(layers)
        return self._runs.setdefault(run.title, run)

    def name_of(self, row: Row | None) -> str | None:
        """Return the canonical name of a row; None on another kind of row."""
        return row if isinstance(row, str) else None

    def in_sight(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """Return the canonical names among rows."""
        return tuple(row for row in rows if isinstance(row, str))

    # ── folds ────────────────────────────────────────────────────────────────────────────────

    def heading_of(self, row: Row | None) -> Layer | None:
        """Return the layer that a row belongs to, if it has a heading."""
        if isinstance(row, Layer):
            return row
        return self.session.layer_of(row) if isinstance(row, str) and not self.flat else None

    def is_unfolded(self, layer: Layer, /) -> bool:
        """Return whether a layer is unfolded.

        By default that is the first, in a narrowed list all, and once settled what differs.
        """
        if isinstance(layer, LayerRun):
            return False
        default = has_difference(layer) if self.settled else layer.is_first
        return self._folds.is_unfolded(layer.title, default=default)

    def fold(self, layer: Layer, /, *, unfolded: bool) -> None:
        """Show or hide a layer's tensors, or the layers of a run."""
        if isinstance(layer, LayerRun):
            self._parted.update(each.title for each in layer.layers)
        else:
            self._folds.put([layer.title], unfolded=unfolded)
        self.arrange()

    def fold_all(self, *, unfolded: bool) -> None:
        self._folds.put((layer.title for layer in self.session.layers), unfolded=unfolded)
        self.arrange()

    # ── ways about ───────────────────────────────────────────────────────────────────────────

    def reveal(self, target: Row, /) -> int | None:
        """Unfold a name's layer and return its row number; None if the filter hides it."""
        layer = self.heading_of(target)
        if layer is not None and layer is not target and not self.is_unfolded(layer):
            self.fold(layer, unfolded=True)
        try:
            return self.rows.index(target)
        except ValueError:
            return None

    def position(self, name: str) -> int:
        """Return the position of a name in `order`, from 1; 0 if the filter hides it."""
        try:
            return self.order.index(name) + 1
        except ValueError:
            return 0

    def next_difference(self, row: Row | None, step: Literal[1, -1] = 1) -> str | None:
        """Return the next difference after a row, or before it, wrapping around at the end.

        In a single checkpoint, and in a filtered list without a difference, it is the next name.
        """
        names = around(self.order, self._start_index(row, step), step)
        found = next(filter(self.session.is_difference, names), None)
        if found is None and names and (self.asked.filter or self.session.browsing):
            return names[0]
        return found

    def _start_index(self, row: Row | None, step: Literal[1, -1]) -> int:
        """Return the index in `order` to search from; a heading lies before its layer's names."""
        if isinstance(row, str) and (position := self.position(row)):
            return position - 1
        if isinstance(row, Layer):
            members = set(row.names)
            first = next((i for i, name in enumerate(self.order) if name in members), 0)
            return first - 1 if step > 0 else first
        return -1 if step > 0 else len(self.order)


def has_difference(layer: Layer) -> bool:
    """Return whether a result of a layer is a difference."""
    return any(layer.counts[status] for status in DIFFERENCES)
