"""What the screens show: a comparison, and how its list is looked at."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.name_filter import matcher
from ckptdiff.tui.model.comparison import DIFFERENCES, Comparison
from ckptdiff.tui.model.inventory import Inventory, Layer, Unmapped
from ckptdiff.tui.model.order import Sort, ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff


# A canonical name, the head of a layer, or a native name that no rule knows.
Row = str | Layer | Unmapped


class Session(Comparison):
    """One opened checkpoint or pair. Written by the UI thread only; workers read `visible`."""

    def __init__(self, paths: Sequence[Any], *, ascii_only: bool = False, **kwargs: Any) -> None:
        super().__init__(paths, **kwargs)
        self.ascii_only = ascii_only
        self.filter = ""
        self.inverted = False  # the filter shows what does not match
        self.finding: int | None = None  # show only what this finding covers; counted from 1
        self.sort: Sort = "model"
        self.reverse = False
        self.differences_only = False
        self.order: list[str] = []  # the names that pass the filter, as sorted, whatever is folded
        self.rows: list[Row] = []  # what the list shows
        self.visible: tuple[str, ...] = ()  # the names on the screen; replaced whole
        self._folds: dict[str, bool] = {}  # what the user folded and unfolded
        self._narrow_folds: dict[str, bool] = {}  # the same, while narrowed

    def open(
        self,
        inventory: Inventory,
        a: Assembled | None,
        b: Assembled | None = None,
        config: Sequence[ConfigDiff] = (),
    ) -> None:
        super().open(inventory, a, b, config)
        self.arrange()

    @property
    def narrowed(self) -> bool:
        """True while the list shows only a part of the names."""
        return bool(self.filter) or self.differences_only or self.finding is not None

    @property
    def flat(self) -> bool:
        """True while the list is sorted across layers, so that layers make no sense."""
        return self.sort != "model" or self.reverse

    @property
    def is_live(self) -> bool:
        """True while results that arrive change which rows there are, or their order."""
        return self.differences_only or self.sort in ("max", "cos")

    def set_filter(self, text: str) -> None:
        """Show names that match, or with a leading `!` those that do not. Raises BadArgument."""
        text = text.strip()
        inverted, pattern = text.startswith("!"), text.removeprefix("!").strip()
        matcher(pattern)  # raises before anything is changed
        self.filter, self.inverted = pattern, inverted and bool(pattern)
        self._narrow_folds.clear()
        self.arrange()

    def show_finding(self, number: int | None) -> None:
        """Show only the tensors that a finding covers, or with None all of them again."""
        self.finding = number
        self._narrow_folds.clear()
        self.arrange()

    def forget_diagnosis(self) -> None:
        super().forget_diagnosis()
        if self.finding is not None:
            self.show_finding(None)

    def arrange(self) -> None:
        """Work out the rows again: after a filter, a sort, a fold, new results in a live list."""
        names: Iterable[str] = self.names
        unmapped: Iterable[Unmapped] = self.inventory.unmapped
        if self.filter:
            matches, wanted = matcher(self.filter), not self.inverted
            names = [name for name in names if matches(name) is wanted]
            unmapped = [row for row in unmapped if matches(row.name) is wanted]
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

    def _folded_rows(self) -> list[Row]:
        rows: list[Row] = []
        if not self.narrowed:
            for layer in self.layers:
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

    def next_difference(self, row: Row | None, step: Literal[1, -1] = 1) -> str | None:
        """Return the difference after (or before) a row of the list, going round at its end.

        Where there are none to find, it is the next match of the filter: in a single checkpoint,
        and in a filtered list without a difference.
        """
        count = len(self.order)
        at = self._place(row, step)
        names = [self.order[(at + step * distance) % count] for distance in range(1, count + 1)]
        found = next(filter(self.is_difference, names), None)
        if found is None and names and (self.filter or self.browsing):
            return names[0]
        return found

    def _place(self, row: Row | None, step: Literal[1, -1]) -> int:
        """Return the index in `order` from which to go on; the head of a layer lies before it."""
        if isinstance(row, str) and (position := self.position(row)):
            return position - 1
        if isinstance(row, Layer):
            members = set(row.names)
            first = next((i for i, name in enumerate(self.order) if name in members), 0)
            return first - 1 if step > 0 else first
        return -1 if step > 0 else len(self.order)

    def command_line(self, name: str | None = None) -> str:
        """Return the shell command that says the same without the screen."""
        words = ["ckptdiff", "ls" if self.browsing else "diff", *map(str, self.paths)]
        if self.optimizer:
            words.append("--optimizer")
        if self.tolerance != "cast":
            words += ["--tolerance", self.tolerance]
        if name is not None:
            words += ["--filter", name]
        return shlex.join(words)
