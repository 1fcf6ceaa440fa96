"""A histogram of ULP distances, or of one tensor's values: bars with exact counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.text import format_number
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.widgets.painted import Painted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.stats import TensorSummary
    from ckptdiff.tui.text.lines import Line

EIGHTHS = " ▏▎▍▌▋▊▉"  # of a cell
FULL, ASCII_FULL = "█", "#"
SMALLEST_BAR = 6  # cells; narrower, the counts are left out


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar: its label and how many values it counts."""

    label: str
    count: int


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram: its title, its bins, and counts that belong to no bin, such as of NaN."""

    title: str
    bins: tuple[Bin, ...]
    without: tuple[Bin, ...] = ()
    edges: bool = False  # labels are the lower edges of the bins


def ulp_bins(histogram: Sequence[int], numel: int) -> Bins:
    """Return the bins of a histogram of ULP distances by bit length: 0, 1, 2-3, 4-7 and so on."""
    used = max((i for i, count in enumerate(histogram) if count), default=0) + 1
    bins = tuple(Bin(_steps(i, i), count) for i, count in enumerate(histogram[:used]))
    left = numel - sum(histogram)
    return Bins("ULP distance", bins, (Bin("no distance", left),) if left else ())


def _steps(first: int, last: int) -> str:
    """Return the label of the distances with bit lengths `first` to `last`."""
    low = 0 if first == 0 else 1 << (first - 1)
    high = 0 if last == 0 else (1 << last) - 1
    return _count(low) if low == high else f"{_count(low)}-{_count(high)}"


def _count(number: int) -> str:
    """Return a distance; from 10,000 on in units of 1024: `16k`, `32M`."""
    if number < 10_000:
        return str(number)
    rounded, unit = number + 1 if number % 2 else number, ""
    for step in ("k", "M", "G", "T", "P"):
        if rounded < 1024:
            break
        rounded, unit = rounded // 1024, step
    return f"{rounded}{unit}"


def value_bins(summary: TensorSummary) -> Bins:
    """Return the bins of one tensor's values, of equal width from the smallest to the largest."""
    count = len(summary.histogram)
    width = summary.max / max(count, 1) - summary.min / max(count, 1)
    bins = tuple(
        Bin(format_number(summary.min + i * width), number)
        for i, number in enumerate(summary.histogram)
    )
    without = [Bin("NaN", summary.nan)] if summary.nan else []
    without += [Bin("Inf", summary.inf)] if summary.inf else []
    return Bins("values from", bins, tuple(without), edges=True)


def merged(bins: Bins, most: int) -> list[Bin]:
    """Return at most `most` bins, with neighbours added up. The bin of distance 0 stays alone."""
    kept = [] if bins.edges or most < 2 else list(bins.bins[:1])
    rest = bins.bins[len(kept) :]
    size = max(1, -(-len(rest) // max(1, most - len(kept))))
    groups = [rest[i : i + size] for i in range(0, len(rest), size)]
    for group in groups:
        label = group[0].label
        if len(group) > 1 and not bins.edges:
            label = f"{label.split('-')[0]}-{group[-1].label.split('-')[-1]}"
        kept.append(Bin(label, sum(b.count for b in group)))
    return kept


def percent(count: int, total: int) -> str:
    """Return a percentage: `100%` only for all, `0%` only for none."""
    if not count or count == total:
        return "100%" if count else "0%"
    share = 100 * count / total
    if share < 0.01:
        return "<0.01%"
    if share > 99.99:
        return ">99.99%"
    return f"{share:.2f}%" if share < 1 or share > 99 else f"{share:.1f}%"


def count_bar(count: int, largest: int, width: int, *, ascii_only: bool) -> str:
    """Return a bar, to an eighth of a cell; a count above zero has at least that."""
    if not count or not largest:
        return ""
    if ascii_only:
        return ASCII_FULL * max(1, count * width // largest)
    eighths = max(1, count * width * 8 // largest)
    return FULL * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def histogram_lines(bins: Bins, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Draw a bin on each line.

    To fit the height, neighbours are added up; to fit the width, counts are left out.
    """
    room = max(1, height - 1 - len(bins.without))
    shown = merged(bins, room)
    total = sum(b.count for b in (*shown, *bins.without))
    largest = max((b.count for b in shown), default=0)
    if not shown:
        return [line((f"{bins.title}: no values", "dim"))]
    rows = [(b.label, f"{b.count:,}", percent(b.count, total)) for b in (*shown, *bins.without)]
    label = max(len(bins.title), *(len(row[0]) for row in rows))
    counted = max(len("count"), *(len(row[1]) for row in rows))
    share = max(len(row[2]) for row in rows)
    if label + counted + share + 3 + SMALLEST_BAR > width:
        counted = 0
    across = max(1, width - label - share - 2 - (counted + 1 if counted else 0))
    head = f"{bins.title:>{label}}"
    if counted:
        head += f" {'count':>{counted}}"
    lines = [line((head, "dim"))]
    for (name, number, part), found in zip(rows, (*shown, *bins.without), strict=True):
        text = f"{name:>{label}} "
        text += f"{number:>{counted}} " if counted else ""
        drawn = (
            count_bar(found.count, largest, across, ascii_only=ascii_only) if found in shown else ""
        )
        lines.append(line(f"{text}{part:>{share}} ", (drawn, "bar")))
    return lines


class Histogram(Painted):
    """The histogram of one tensor."""

    DEFAULT_CSS = """
    Histogram { height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.bins: Bins | None = None
        self.nothing = ""
        self.ascii_only = False

    def show(self, bins: Bins | None, *, nothing: str = "", ascii_only: bool = False) -> None:
        """Show the bins; without any, show `nothing`."""
        self.bins, self.nothing, self.ascii_only = bins, nothing, ascii_only
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:
        if self.bins is None:
            return [line((self.nothing, "dim"))]
        return histogram_lines(self.bins, width, height, ascii_only=self.ascii_only)
