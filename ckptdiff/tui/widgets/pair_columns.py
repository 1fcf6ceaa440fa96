"""The columns of the tensor list where it has two panes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.tui.widgets.tensor_row import COS, DTYPE, MAX, SHAPES, SIZE

if TYPE_CHECKING:
    from ckptdiff.tui.model.own_names import OwnNames, PairNames
    from ckptdiff.tui.model.session import Session

TWO_PANES = 110  # columns of the terminal
GUTTER = 3  # cells at the left of a pane: a blank, a fold mark or a bracket, a blank
REL, ULP = 8, 7
ROOM_FOR = {"cosine": 126, "rel": 140, "ulp": 156}  # cells of the list
LEAST_NAME = 12
PART = 26  # cells behind a name: `gate  rows 0:80, 160:240`


@dataclass(frozen=True, slots=True)
class PaneColumns:
    """The cells of a pane's columns."""

    name: int
    shape: int
    ranks: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return GUTTER + self.name + 1 + self.shape + sum(size + 1 for size in self.ranks) + 1


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The cells of both panes and of the numbers between them; 0 is not shown."""

    a: PaneColumns
    b: PaneColumns
    max_abs: int = 0
    cosine: int = 0
    rel: int = 0
    ulp: int = 0
    dtype: int = 0
    size: int = 0

    @property
    def numbers(self) -> int:
        """The cells of all columns of numbers, with the blanks between them."""
        return _joined(self.max_abs, self.cosine, self.rel, self.ulp, self.dtype, self.size)

    @property
    def middle(self) -> int:
        """The cells between the bars."""
        return (4 if self.max_abs else 1) + self.numbers + 1


def _joined(*sizes: int) -> int:
    return sum(size + 1 for size in sizes if size) - 1


def pair_columns(width: int, session: Session, pair: PairNames) -> PairColumns:
    """Return the columns that fit. Numbers keep their width; the names share the rest."""
    shape = max(SHAPES[0], min(session.inventory.shape_width, SHAPES[1]))
    if session.browsing:
        numbers = {"dtype": DTYPE, "size": SIZE}
    else:
        sizes = zip(ROOM_FOR.items(), (COS, REL, ULP), strict=True)
        numbers = {"max_abs": MAX}
        numbers |= {word: size for (word, least), size in sizes if width >= least}
    bare = PairColumns(
        PaneColumns(0, shape, _rank_widths(pair.side("a"))),
        PaneColumns(0, shape, _rank_widths(pair.side("b"))),
        **numbers,
    )
    room = width - bare.a.width - bare.b.width - bare.middle - 2
    first, second = _name_widths(max(2 * LEAST_NAME, room), pair)
    return PairColumns(
        PaneColumns(first, shape, bare.a.ranks), PaneColumns(second, shape, bare.b.ranks), **numbers
    )


def _rank_widths(own: OwnNames | None) -> tuple[int, ...]:
    if own is None:
        return ()
    return tuple(max(len(word), len(f"0-{most}")) for word, most in own.rank_words.items())


def _name_widths(room: int, pair: PairNames) -> tuple[int, int]:
    """Return the cells of both name columns: as the names need, and else as fair as can be."""
    wanted = pair.longest("a"), pair.longest("b")
    spare = room - sum(wanted)
    if spare >= 0:
        # Behind the names of a side that fuses stands which rows a tensor has.
        sides = (pair.side("a"), pair.side("b"))
        parts = [0 if own is None or own.are_canonical else PART for own in sides]
        given = min(spare, sum(parts))
        first = wanted[0] + given * parts[0] // max(1, sum(parts)) + (spare - given) // 2
        return first, room - first
    half = room // 2
    if wanted[1] < half:
        return room - wanted[1], wanted[1]
    first = min(wanted[0], half)
    return first, room - first
