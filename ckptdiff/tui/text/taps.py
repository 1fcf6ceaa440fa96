"""The taps of a comparison of logits as a table of layers by steps, and one tap in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10
from typing import TYPE_CHECKING

from ckptdiff.logits.verdict import place
from ckptdiff.text import format_number, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.words import fitted, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import Tap
    from ckptdiff.tui.text.lines import Line

    TensorRead = tuple[str, str]  # the glyph of a tensor's status, and its name

NARROWEST = 5  # cells of a number and its mark
EQUAL = "="


@dataclass(frozen=True, slots=True)
class TapRow:
    """The taps of one layer, or those before the first or after the last layer."""

    label: str
    taps: tuple[Tap | None, ...]
    in_columns: bool  # each tap is in the column of its name, None where the layer has none


@dataclass(frozen=True, slots=True)
class TapGrid:
    """The table of taps: a row for each layer, a column for each name."""

    columns: tuple[str, ...] = ()  # names, in order of their first appearance
    rows: tuple[TapRow, ...] = ()


def tap_grid(taps: Sequence[Tap]) -> TapGrid:
    """Return taps as a table. Taps before the first layer and after the last have own rows."""
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
    """Return `!` above the threshold, `~` if a cast of the weights explains that, else ""."""
    if threshold is None or tap.rel <= threshold:
        return ""
    return "~" if tap.judged <= threshold else "!"


def number_of(tap: Tap) -> str:
    """Return log10 of the relative difference; `=` if there is none."""
    if not isfinite(tap.rel):
        return "inf"
    return f"{log10(tap.rel):.1f}" if tap.rel else EQUAL


def heading(name: str) -> str:
    """Return the column heading of a tap's name: `mlp` for `mlp_out`."""
    return name.removesuffix("_out")


def widths(grid: TapGrid) -> list[int]:
    """Return the width of each column in cells, with the blank before it."""
    return [1 + max(NARROWEST, len(heading(name))) for name in grid.columns]


def tap_words(
    tap: Tap,
    threshold: float | None,
    *,
    first: bool,
    reads: Sequence[TensorRead] | None,
    width: int,
    ascii_only: bool,
) -> list[Line]:
    """Return two lines about a tap: its difference, and the tensors it depends on.

    `reads` are those tensors; None before the end, when they are not known.
    """
    role = {"": "", "~": "close", "!": "differ"}[tap_mark(tap, threshold)]
    head = f"{'First step that differs: ' if first else ''}{place(tap)}"
    figures = [f"relative difference {format_number(tap.rel)}" if tap.rel else "no difference"]
    if tap.hint:
        figures.append(printable(tap.hint))
    if tap.rest is not None:
        figures.append(f"{format_number(tap.rest)} without the cast of the weights")
    if tap.floor:
        figures.append(f"rounding {format_number(tap.floor)}")
    rest = fitted(", ".join(figures), max(8, width - len(head) - 2), ascii_only=ascii_only).rstrip()
    lines = [line((head, role or "strong"), f"  {rest}")]
    if reads is None:
        return [
            *lines,
            line(("The tensors that it reads are shown when all steps are done.", "dim")),
        ]
    if not reads:
        config = key("logits.config", "2")
        return [
            *lines,
            line((f"It reads no tensor, only the config: key {config} shows that.", "dim")),
        ]
    words = [f"{glyph} {printable(_in_layer(name, tap.layer))}" for glyph, name in reads]
    listed, room = "", width - len("reads ")
    for number, word in enumerate(words):
        left = len(words) - number - 1
        rest = f"  and {left} more" if left else ""
        longer = f"{listed}  {word}" if listed else word
        if listed and len(longer + rest) > room:
            listed += f"  and {left + 1} more"
            break
        listed = longer
    return [*lines, line(("reads ", "dim"), shorten(listed, room, ascii_only=ascii_only))]


def _in_layer(name: str, layer: int | None) -> str:
    """Return a tensor's name without the prefix of its layer."""
    return name if layer is None else name.rpartition(f".{layer}.")[2]
