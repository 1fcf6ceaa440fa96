"""What a view of the main screen's list is: rows under headings, and the ways about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from ckptdiff.tui.model.inventory import Layer, Unmapped
from ckptdiff.tui.model.stored import HeldFile, StoredRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.tui.model.order import Sort

# A canonical name, the heading of a layer, or an unmapped native name; in the view of files a file,
# or a tensor stored in it.
Row = str | Layer | Unmapped | HeldFile | StoredRow


class Asked(Protocol):
    """What the user asked to see of a list, and in which order."""

    filter: str
    inverted: bool  # show what does not match the filter
    finding: int | None  # from 1: show only what it covers
    differences_only: bool
    sort: Sort
    reverse: bool

    @property
    def narrowed(self) -> bool:
        """Whether the list shows only some of its rows."""


class Listing(Protocol):
    """The rows of one view. A heading is a row that others fold under, of the view's own kind."""

    rows: list[Row]

    def arrange(self) -> None:
        """Rebuild the rows, after a change of filter, sort or folds, or new results."""

    def heading_of(self, row: Row | None) -> Any:
        """Return the heading of a row, a heading itself for one, or None."""

    def is_unfolded(self, heading: Any, /) -> bool:
        """Return whether the rows of a heading are shown."""

    def fold(self, heading: Any, /, *, unfolded: bool) -> None:
        """Show or hide the rows of a heading."""

    def fold_all(self, *, unfolded: bool) -> None:
        """Show or hide the rows of all headings."""

    def reveal(self, target: Any, /) -> int | None:
        """Unfold a row's heading and return its row number; None if the filter hides it.

        A canonical name stands for the first row that has to do with it.
        """

    def next_difference(self, row: Row | None, step: Literal[1, -1] = 1) -> Row | None:
        """Return the next row that differs, or before it, wrapping around at the end."""

    def name_of(self, row: Row | None) -> str | None:
        """Return the canonical name that a row stands for, if any."""

    def in_sight(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """Return the canonical names that rows stand for."""
