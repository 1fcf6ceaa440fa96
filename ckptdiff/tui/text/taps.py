"""How far apart the sides are after each step of each layer, as a table, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10
from typing import TYPE_CHECKING

from ckptdiff.logits.run import place
from ckptdiff.text import format_number, printable
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.words import fitted, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import Tap
    from ckptdiff.tui.text.lines import Line

    Read = tuple[str, str]  # a tensor's name, after the glyph of what is known of it

NARROWEST = 5  # cells of a number and its mark
EQUAL = "="


@dataclass(frozen=True, slots=True)
class TapRow:
    """The taps of one layer, each in the column of its name; or those outside, one by one."""

    label: str
    taps: tuple[Tap | None, ...]
    in_columns: bool


@dataclass(frozen=True, slots=True)
class TapGrid:
    """Layers by taps."""

    columns: tuple[str, ...] = ()  # names, in order of their first appearance
    rows: tuple[TapRow, ...] = ()


def tap_grid(taps: Sequence[Tap]) -> TapGrid:
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
    rows = [TapRow("in", tuple(before), in_columns=False)] if before else []
    for number, found in layers.items():
        rows.append(TapRow(str(number), tuple(map(found.get, columns)), in_columns=True))
    if after:
        rows.append(TapRow("out", tuple(after), in_columns=False))
    return TapGrid(columns, tuple(rows))


def tap_mark(tap: Tap, threshold: float | None) -> str:
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


def widths(grid: TapGrid) -> list[int]:
    """Return the cells of each column, with the blank before it."""
    return [1 + max(NARROWEST, len(heading(name))) for name in grid.columns]


def tap_words(
    tap: Tap,
    threshold: float | None,
    *,
    first: bool,
    reads: Sequence[Read] | None,
    width: int,
    ascii_only: bool,
) -> list[Line]:
    """Return two lines about a tap: how far apart, and which tensors it depends on."""
    role = {"": "", "~": "close", "!": "differ"}[tap_mark(tap, threshold)]
    head = f"{'First bad tap: ' if first else ''}{place(tap)}"
    told = [f"{tap.rel:.2g} apart"]
    if tap.hint:
        told.append(printable(tap.hint))
    if tap.rest is not None:
        told.append(f"{tap.rest:.2g} without the cast of the weights")
    if tap.floor:
        told.append(f"floor {format_number(tap.floor)}")
    rest = fitted(", ".join(told), max(8, width - len(head) - 2), ascii_only=ascii_only).rstrip()
    lines = [line((head, role or "strong"), f"  {rest}")]
    if reads is None:
        return [*lines, line(("Which tensors it depends on is told at the end.", "dim"))]
    if not reads:
        return [
            *lines,
            line(("It depends on no tensor but on the config alone. 2 shows that.", "dim")),
        ]
    words = [f"{glyph} {printable(_in_layer(name, tap.layer))}" for glyph, name in reads]
    named, room = "", width - len("reads ")
    for number, one in enumerate(words):
        left = len(words) - number - 1
        rest = f"  and {left} more" if left else ""
        longer = f"{named}  {one}" if named else one
        if named and len(longer + rest) > room:
            named += f"  and {left + 1} more"
            break
        named = longer
    return [*lines, line(("reads ", "dim"), shorten(named, room, ascii_only=ascii_only))]


def _in_layer(name: str, layer: int | None) -> str:
    """Return what a tensor is called inside the layer that is spoken of."""
    return name if layer is None else name.rpartition(f".{layer}.")[2]
