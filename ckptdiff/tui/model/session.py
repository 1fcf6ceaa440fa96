"""The state of the main screen: a comparison, and how its tensor list is arranged."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.tui.model.comparison import DIFFERENCES, Comparison
from ckptdiff.tui.model.files import FileList
from ckptdiff.tui.model.inventory import (
    Inventory,
    Layer,
    LayerRun,
    Unmapped,
    can_run_on,
    run_of,
)
from ckptdiff.tui.model.name_search import can_be_letters, name_matcher
from ckptdiff.tui.model.order import Sort, around, ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.tui.model.listing import Listing
    from ckptdiff.tui.model.listing import Row as Row


View = Literal["both", "names", "files"]
VIEWS: tuple[View, ...] = ("both", "names", "files")


class Session(Comparison):
    """A comparison with the filter, sort and folds of its list. Only the UI thread writes it."""

    def __init__(self, paths: Sequence[Any], *, ascii_only: bool = False, **kwargs: Any) -> None:
        super().__init__(paths, **kwargs)
        self.ascii_only = ascii_only
        self.view: View = "both"  # without the width or the rows for it, as "names"
        self.files = FileList(self, self)
        self.filter = ""
        self.inverted = False  # show what does not match the filter
        # Nothing matches the filter as words: it shows names with its letters in order, best first.
        self.by_letters = False
        self._ranking: tuple[str, Sequence[str], list[str]] | None = None  # filter, of, found
        self.finding: int | None = None  # from 1: show only the tensors that it covers
        self.sort: Sort = "model"
        self.reverse = False
        self.differences_only = False
        self.order: list[str] = []  # the names that pass the filter, sorted, folded ones too
        self.rows: list[Row] = []  # of the list
        self.visible: tuple[str, ...] = ()  # the names in sight, read by workers; replaced whole
        self._folds: dict[str, bool] = {}  # by layer title: True is unfolded
        self._narrow_folds: dict[str, bool] = {}  # the same, while the list is narrowed
        self.settled = False  # what differs is unfolded, and what does not is folded
        self._runs: dict[str, LayerRun] = {}  # by title: the folded headings of several layers
        self._parted: set[str] = set()  # the titles of layers whose run was unfolded
        self.began_at: Row | None = None  # the row under the cursor once all was compared

    def open(
        self,
        inventory: Inventory,
        a: Assembled | None,
        b: Assembled | None = None,
        config: Sequence[ConfigDiff] = (),
    ) -> None:
        super().open(inventory, a, b, config)
        self.arrange()

    def forget(self) -> None:
        super().forget()
        self.settled = False
        self.began_at = None
        self._runs.clear()
        self._parted.clear()

    @property
    def listing(self) -> Listing:
        """The list that is in view: of canonical tensors, which is this, or of files."""
        return self.files if self.view == "files" else self

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was done to the list yet: no filter, sort, or fold."""
        return not (self.narrowed or self.flat or self._folds or self.settled)

    def settle(self, room: int) -> None:
        """Unfold what differs and fold the rest, or all of it if `room` rows hold it.

        Called once all results are there.
        """
        everything = len(self.names) + len(self.inventory.unmapped) + len(self.layers)
        if everything <= room:
            self.fold_all(unfolded=True)
            return
        self.settled = True
        self.arrange()

    @property
    def narrowed(self) -> bool:
        """Whether the list shows only some of the names."""
        return bool(self.filter) or self.differences_only or self.finding is not None

    @property
    def flat(self) -> bool:
        """Whether the list is sorted across layers, and so has no headings."""
        return self.sort != "model" or self.reverse or self.by_letters

    @property
    def is_unranked(self) -> bool:
        """Whether the names with the filter's letters have not been looked for."""
        return self.by_letters and self._letters_found() is None

    @property
    def is_live(self) -> bool:
        """Whether new results change which rows the list has, or their order."""
        return self.differences_only or self.sort in ("max", "cos")

    @property
    def next_view(self) -> View:
        """The view after the present one."""
        return VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]

    def show_view(self, view: View) -> None:
        """Show the list in another way."""
        self.view = view
        self.arrange()

    def set_filter(self, text: str) -> None:
        """Show names that match, or after a leading `!` those that do not. Raises BadArgument."""
        text = text.strip()
        inverted, pattern = text.startswith("!"), text.removeprefix("!").strip()
        name_matcher(pattern)  # raises BadArgument before anything is changed
        self.filter, self.inverted = pattern, inverted and bool(pattern)
        self._narrow_folds.clear()
        self.arrange()

    def set_ranking(self, pattern: str, names: Sequence[str], found: list[str]) -> None:
        """Set which of `names` hold the letters of a pattern, the best match first."""
        self._ranking = pattern, names, found
        self.arrange()

    def _letters_found(self) -> list[str] | None:
        if self._ranking is None:
            return None
        pattern, names, found = self._ranking
        return found if pattern == self.filter and names is self.names else None

    def show_finding(self, number: int | None) -> None:
        """Show only the tensors that a finding covers; with None, all of them."""
        self.finding = number
        self._narrow_folds.clear()
        self.arrange()

    def forget_diagnosis(self) -> None:
        super().forget_diagnosis()
        if self.finding is not None:
            self.show_finding(None)

    def arrange(self) -> None:
        """Rebuild `order` and `rows`, after a change of filter, sort or folds, or new results."""
        names: Iterable[str] = self.names
        unmapped: Iterable[Unmapped] = self.inventory.unmapped
        self.by_letters = False
        if self.filter:
            matches, wanted = name_matcher(self.filter), not self.inverted
            names = [name for name in names if matches(name) is wanted]
            unmapped = [row for row in unmapped if matches(row.name) is wanted]
            if wanted and not names and not unmapped and can_be_letters(self.filter):
                self.by_letters = True
                names = self._letters_found() or ()
        if self.differences_only:
            known = self.results
            names = [name for name in names if name in known and known[name].status in DIFFERENCES]
        if self.finding is not None:
            covered = set(self.diagnosis.findings[self.finding - 1].tensors)
            names = [name for name in names if name in covered]
            unmapped = ()
        self.order = ordered(
            list(names),
            self.sort,
            reverse=self.reverse,
            results=self.results,
            sizes=self.inventory.sizes,
        )
        self.rows = list(self.order) if self.flat else self._folded_rows()
        self.rows += unmapped
        if self.view == "files":
            self.files.arrange()

    def _folded_rows(self) -> list[Row]:
        rows: list[Row] = []
        if not self.narrowed:
            for layer in self._headed():
                if layer.title:
                    rows.append(layer)
                if not layer.title or self.is_unfolded(layer):
                    rows += layer.names
            return rows
        head, shown = None, True
        layer_of = self.inventory.layer_of
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
        if not self.settled:
            return list(self.layers)
        headed: list[Layer] = []
        run: list[Layer] = []
        for layer in self.layers:
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

    def heading_of(self, row: Row | None) -> Layer | None:
        """Return the layer that a row belongs to, if it has a heading."""
        if isinstance(row, Layer):
            return row
        return self.layer_of(row) if isinstance(row, str) and not self.flat else None

    def name_of(self, row: Row | None) -> str | None:
        """Return the canonical name of a row; None on another kind of row."""
        return row if isinstance(row, str) else None

    def in_sight(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """Return the canonical names among rows."""
        return tuple(row for row in rows if isinstance(row, str))

    def is_unfolded(self, layer: Layer) -> bool:
        """Return whether a layer is unfolded.

        By default that is the first, in a narrowed list all, and once settled what differs.
        """
        if isinstance(layer, LayerRun):
            return False
        if self.narrowed:
            return self._narrow_folds.get(layer.title, True)
        default = has_difference(layer) if self.settled else layer.is_first
        return self._folds.get(layer.title, default)

    def fold(self, layer: Layer, *, unfolded: bool) -> None:
        """Show or hide a layer's tensors, or the layers of a run."""
        if isinstance(layer, LayerRun):
            self._parted.update(each.title for each in layer.layers)
        else:
            (self._narrow_folds if self.narrowed else self._folds)[layer.title] = unfolded
        self.arrange()

    def fold_all(self, *, unfolded: bool) -> None:
        folds = self._narrow_folds if self.narrowed else self._folds
        folds.update((layer.title, unfolded) for layer in self.layers)
        self.arrange()

    def reveal(self, name: str) -> int | None:
        """Unfold a name's layer and return its row number; None if the filter hides it."""
        layer = self.layer_of(name)
        if layer is not None and not self.flat and not self.is_unfolded(layer):
            self.fold(layer, unfolded=True)
        try:
            return self.rows.index(name)
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
        found = next(filter(self.is_difference, names), None)
        if found is None and names and (self.filter or self.browsing):
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

    def command_line(self, name: str | None = None) -> str:
        """Return the command line that compares or lists the same."""
        words = ["ckptdiff", "ls" if self.browsing else "diff", *map(str, self.paths)]
        if self.optimizer:
            words.append("--optimizer")
        if self.tolerance != "cast":
            words += ["--tolerance", self.tolerance]
        if name is not None:
            words += ["--filter", name]
        return shlex.join(words)


def has_difference(layer: Layer) -> bool:
    """Return whether a result of a layer is a difference."""
    return any(layer.counts[status] for status in DIFFERENCES)
