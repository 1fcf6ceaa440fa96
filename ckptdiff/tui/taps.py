"""How far apart the sides are after each step of each layer, as a table, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10
from typing import TYPE_CHECKING

from ckptdiff.text import format_number, printable
from ckptdiff.tui.painted import line
from ckptdiff.tui.words import fitted, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptdiff.results import Tap
    from ckptdiff.tui.painted import Line

NARROWEST = 5  # cells of a number and its mark
EQUAL = "="


@dataclass(frozen=True, slots=True)
class Row:
    """The taps of one layer, each in the column of its name; or those outside, one by one."""

    label: str
    taps: tuple[Tap | None, ...]
    in_columns: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """Layers by taps."""

    columns: tuple[str, ...] = ()  # names, in order of their first appearance
    rows: tuple[Row, ...] = ()


def grid_of(taps: Sequence[Tap]) -> Grid:
    """Return taps as a table. What lies before the first layer and behind the last has its rows."""
    columns = tuple(dict.fromkeys(tap.name for tap in taps if tap.layer is not None))
    layers: dict[int, dict[str, Tap]] = {}
    before: list[Tap] = []
    after: list[Tap] = []
    for tap in taps:
        if tap.layer is not None:
            layers.setdefault(tap.layer, {})[tap.name] = tap
        else:
            (after if layers else before).append(tap)
    rows = [Row("in", tuple(before), in_columns=False)] if before else []
    for number, found in layers.items():
        rows.append(Row(str(number), tuple(map(found.get, columns)), in_columns=True))
    if after:
        rows.append(Row("out", tuple(after), in_columns=False))
    return Grid(columns, tuple(rows))


def mark_of(tap: Tap, threshold: float | None) -> str:
    """Return `!` above the threshold, `~` if a cast of the weights explains that, or nothing."""
    if threshold is None or tap.rel <= threshold:
        return ""
    return "~" if tap.judged <= threshold else "!"


def number_of(tap: Tap) -> str:
    """Return the exponent of ten; `=` for no difference at all."""
    if not isfinite(tap.rel):
        return "inf"
    return f"{log10(tap.rel):.1f}" if tap.rel else EQUAL


def heading(name: str) -> str:
    """Return a tap's name as a column's: what a block gives goes by the block's name."""
    return name.removesuffix("_out")


def widths(grid: Grid) -> list[int]:
    """Return the cells of each column, with the blank before it."""
    return [1 + max(NARROWEST, len(heading(name))) for name in grid.columns]


def place_of(tap: Tap) -> str:
    return tap.name if tap.layer is None else f"layer {tap.layer}, {tap.name}"


def tap_words(
    tap: Tap,
    threshold: float | None,
    *,
    first: bool,
    statuses: Callable[[str], str] | None,
    width: int,
    ascii_only: bool,
) -> list[Line]:
    """Return two lines about a tap: how far apart, and which tensors it depends on."""
    role = {"": "", "~": "close", "!": "differ"}[mark_of(tap, threshold)]
    head = f"{'First bad tap: ' if first else ''}{place_of(tap)}"
    told = [f"{'inf' if not isfinite(tap.rel) else format_number(tap.rel)} apart"]
    if tap.hint:
        told.append(printable(tap.hint))
    if tap.rest is not None:
        told.append(f"{format_number(tap.rest)} without the cast of the weights")
    if tap.floor:
        told.append(f"floor {format_number(tap.floor)}")
    rest = fitted(", ".join(told), max(8, width - len(head) - 2), ascii_only=ascii_only).rstrip()
    lines = [line((head, role or "strong"), f"  {rest}")]
    if statuses is None:
        return [*lines, line(("Which tensors it depends on is told at the end.", "dim"))]
    if not tap.reads:
        return [*lines, line(("It depends on no tensor but on the config alone.", "dim"))]
    names = [f"{statuses(name)} {printable(name)}" for name in tap.reads]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    shown = " ".join(names[:2]) + more
    room = width - len("reads ")
    if len(shown) > room:
        short = [name.rpartition("layers.")[2] for name in names[:2]]
        shown = " ".join(
            n if n == full else f"{full[:2]}{n}" for n, full in zip(short, names, strict=False)
        )
        shown += more
    return [*lines, line(("reads ", "dim"), shorten(shown, room, ascii_only=ascii_only))]
