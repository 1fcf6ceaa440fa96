"""The state of the main screen: a comparison, and how its tensor list is arranged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.text import operand, option, shell_line
from ckptdiff.tui.model.comparison import Comparison
from ckptdiff.tui.model.files import FileList
from ckptdiff.tui.model.name_search import REGEX, name_matcher
from ckptdiff.tui.model.names import NameList

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.tui.model.files import Tally
    from ckptdiff.tui.model.inventory import Inventory
    from ckptdiff.tui.model.listing import Listing, Row
    from ckptdiff.tui.model.order import Sort
    from ckptdiff.tui.model.stored import HeldFile, HeldFiles


View = Literal["both", "names", "files"]
VIEWS: tuple[View, ...] = ("both", "names", "files")


class Session(Comparison):
    """A comparison, and what of it is listed, and how. Only the UI thread writes it."""

    def __init__(self, paths: Sequence[Any], *, ascii_only: bool = False, **kwargs: Any) -> None:
        super().__init__(paths, **kwargs)
        self.ascii_only = ascii_only
        self.view: View = "both"  # without the width or the rows for it, as "names"
        self.tensors = NameList(self, self)
        self.files = FileList(self, self)
        self.filter = ""
        self.inverted = False  # show what does not match the filter
        self.finding: int | None = None  # from 1: show only the tensors that it covers
        self.sort: Sort = "model"
        self.reverse = False
        self.differences_only = False
        self.visible: tuple[str, ...] = ()  # the names in sight, read by workers; replaced whole
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
        self.tensors.forget()
        self.began_at = None

    @property
    def listing(self) -> Listing:
        """The list that is in view."""
        return self.files if self.view == "files" else self.tensors

    @property
    def narrowed(self) -> bool:
        """Whether the list shows only some of the names."""
        return bool(self.filter) or self.differences_only or self.finding is not None

    @property
    def is_live(self) -> bool:
        """Whether new results change which rows the list has, or their order."""
        return self.differences_only or self.sort in ("max", "cos")

    def show_view(self, view: View) -> None:
        """Show the list in another way."""
        self.view = view
        self.arrange()

    def show_files(self, held: HeldFiles, tallies: Mapping[HeldFile, Tally] | None = None) -> None:
        """Set what each file holds, once it is listed."""
        self.files.show(held, tallies)
        if self.view == "files":
            self.files.arrange()

    def begin_in_order(self) -> bool:
        """Sort as a list begins: in model order. Return whether it was sorted otherwise."""
        was_sorted = self.sort != "model" or self.reverse
        self.sort, self.reverse = "model", False
        return was_sorted

    def set_filter(self, text: str) -> None:
        """Show names that match, or after a leading `!` those that do not. Raises BadArgument."""
        text = text.strip()
        inverted, pattern = text.startswith("!"), text.removeprefix("!").strip()
        matches = name_matcher(pattern)  # raises BadArgument before anything is changed
        if pattern.startswith(REGEX):
            for name in self.names:  # so does an expression that takes too long
                matches(name)
        self.filter, self.inverted = pattern, inverted and bool(pattern)
        self.arrange()

    def show_finding(self, number: int | None) -> None:
        """Show only the tensors that a finding covers; with None, all of them."""
        self.finding = number
        self.arrange()

    def forget_diagnosis(self) -> None:
        super().forget_diagnosis()
        if self.finding is not None:
            self.show_finding(None)

    def arrange(self) -> None:
        """Rebuild the rows, after a change of filter or sort, or new results."""
        self.tensors.arrange()
        if self.view == "files":
            self.files.arrange()

    def command_line(self, name: str | None = None) -> str:
        """Return the command line that compares or lists the same."""
        words = ["ckptdiff", "ls" if self.browsing else "diff", *map(operand, self.paths)]
        if self.optimizer:
            words.append("--optimizer")
        if self.adapter is not None:
            words += option("--adapter", str(self.adapter))
        if self.tolerance != "cast":
            words += ["--tolerance", self.tolerance]
        if name is not None:
            words += option("--filter", name)
        return shell_line(words)
