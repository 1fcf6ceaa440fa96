"""Which headings of a list are unfolded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.tui.model.listing import Asked

HeadingT = TypeVar("HeadingT")


class Folds(Generic[HeadingT]):
    """What the user folded and unfolded. A narrowed list has its own, until it is narrowed anew."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._whole: dict[HeadingT, bool] = {}  # True is unfolded
        self._narrow: dict[HeadingT, bool] = {}
        self._narrowed_by: tuple[object, ...] = ()

    def __bool__(self) -> bool:
        """Return whether a heading of the whole list was folded or unfolded."""
        return bool(self._whole)

    @property
    def _here(self) -> dict[HeadingT, bool]:
        asked = self._asked
        narrowed_by = (asked.filter, asked.inverted, asked.finding)
        if narrowed_by != self._narrowed_by:
            self._narrow.clear()
            self._narrowed_by = narrowed_by
        return self._narrow if asked.narrowed else self._whole

    def is_unfolded(self, heading: HeadingT, *, default: bool) -> bool:
        """Return whether a heading is unfolded: by default in a narrowed list, else as given."""
        return self._here.get(heading, default or self._asked.narrowed)

    def put(self, headings: Iterable[HeadingT], *, unfolded: bool) -> None:
        """Fold or unfold headings."""
        self._here.update((heading, unfolded) for heading in headings)

    def clear(self) -> None:
        self._whole.clear()
        self._narrow.clear()
