"""Pictures of a page as inline SVG: heat maps and dot plots, coloured by classes of the page."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name
from ckptdiff.kernels.stats import NO_NUMBER, level_value
from ckptdiff.report.statuses import WORD
from ckptdiff.text import format_number, html_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.results import Displaced, Numbers, TensorDiff

STEPS = 5  # of the colour scale, h1 to h5; h0 is no difference, hx no number
_CELL = 14  # pixels of a tensor in the overview
_PLOT, _DOT = 220, 20  # pixels of a dot plot, and of a dot where there are few
MAX_CELLS = 6000  # of the overview
_LIMITS = (1e-3, 1e-2, 1e-1)  # of rel_l2, between h2 and h5 of the overview
_LEGEND = {
    "h0": "same",
    "h1": "close or packed",
    "h2": "differs, rel up to 0.001",
    "h3": "rel up to 0.01",
    "h4": "rel up to 0.1",
    "h5": "rel above 0.1",
    "hx": "on one side alone, of another shape, or an error",
}


def heat_map(numbers: Numbers) -> str:
    """Return where in a tensor the differences are: its blocks, by their largest |a-b|."""
    rows, columns = numbers.grid_shape
    levels = numbers.grid
    if not levels or len(levels) != rows * columns:
        return ""
    top = max((level for level in levels if level != NO_NUMBER), default=0)
    least = min((level for level in levels if level), default=0)
    paths: dict[str, list[str]] = defaultdict(list)
    for at, level in enumerate(levels):
        paths[_shade(level, least, top)].append(f"M{at % columns} {at // columns}h1v1h-1z")
    # At least 160 pixels wide and 40 high; blocks are squares where there are many.
    width, height = max(160, 5 * columns), max(40, 5 * rows)
    shapes = "".join(f'<path class="{shade}" d="{"".join(d)}"/>' for shade, d in paths.items())
    return (
        f'<svg class="map" viewBox="0 0 {columns} {rows}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" role="img" aria-label="heat map">{shapes}</svg>'
        f"{scale(level_value(least), level_value(top))}"
    )


def _shade(level: int, least: int, top: int) -> str:
    """Return the class of a level; levels are logarithmic, and so is the scale."""
    if level == NO_NUMBER:
        return "hx"
    if not level:
        return "h0"
    return f"h{1 + min(STEPS - 1, (level - least) * STEPS // max(1, top - least))}"


def scale(least: float, top: float) -> str:
    """Return the legend of a heat map, from the smallest difference to the largest."""
    steps = "".join(_box(f"h{step}") for step in range(1, STEPS + 1))
    return (
        f'<p class="scale">{_box("h0")} 0, {format_number(least)} {steps} {format_number(top)}</p>'
    )


def _box(shade: str) -> str:
    shape = f'<rect class="{shade}" width="12" height="10"/>'
    return f'<svg width="12" height="10" aria-hidden="true">{shape}</svg>'


@dataclass(frozen=True, slots=True)
class _TensorKind:
    """The tensors of one name but for its numbers, by layer: the worst of each."""

    template: str
    worst: dict[int, TensorDiff]


def overview(results: Iterable[TensorDiff]) -> str:
    """Return the model as a map: layers across, kinds of tensors down; "" if all is the same.

    Kinds that are the same in every layer are counted below it.
    """
    found: dict[str, dict[int, TensorDiff]] = defaultdict(dict)
    for result in results:
        template, numbers = split_name(result.name)
        layer = numbers[0] if numbers else -1
        old = found[template].get(layer)
        if old is None or _badness(result) > _badness(old):
            found[template][layer] = result
    kinds = [_TensorKind(template, worst) for template, worst in found.items()]
    shown = [kind for kind in kinds if any(map(_badness, kind.worst.values()))]
    layers = 1 + max((max(kind.worst) for kind in shown), default=0)
    if not shown or len(shown) * layers > MAX_CELLS:
        return ""
    margin = 9 + 7 * max(len(kind.template) for kind in shown)
    cells = "".join(_kind_row(kind, y, margin) for y, kind in enumerate(shown))
    ticks = "".join(
        f'<text x="{margin + layer * _CELL + _CELL // 2}" y="10" class="tick">{layer}</text>'
        for layer in range(0, layers, 4 if layers > 8 else 1)
    )
    width, height = margin + layers * _CELL + 4, 16 + len(shown) * _CELL
    used = {_shade_of(result) for kind in shown for result in kind.worst.values()}
    legend = " &ensp; ".join(
        f"{_box(shade)} {words}" for shade, words in _LEGEND.items() if shade in used
    )
    same = len(kinds) - len(shown)
    note = f"<br>{same} more kinds of tensors are the same everywhere" if same else ""
    return (
        f'<div class="wide"><svg width="{width}" height="{height}" role="img" '
        f'aria-label="tensors by layer">{ticks}{cells}</svg></div>'
        f'<p class="scale">{legend}{note}</p>'
    )


def _kind_row(kind: _TensorKind, y: int, margin: int) -> str:
    top = 16 + y * _CELL
    label = html_text(kind.template)
    cells = [f'<text x="{margin - 6}" y="{top + 10}" class="kind-name">{label}</text>']
    for layer, result in kind.worst.items():
        what = WORD[result.status]
        if result.numbers is not None:
            what += f", rel {format_number(result.numbers.rel_l2)}"
        cells.append(
            f'<rect class="{_shade_of(result)}" x="{margin + max(0, layer) * _CELL}" '
            f'y="{top}" width="{_CELL - 2}" height="{_CELL - 2}" rx="2">'
            f"<title>{html_text(result.name)}: {what}</title></rect>"
        )
    return "".join(cells)


def _badness(result: TensorDiff) -> float:
    """Return 0 for what is the same, 1 for what is close, 2 to 5 for what differs by its rel."""
    if result.status in ("same", "matched"):
        return 0
    if result.status in ("close", "packed"):
        return 1
    if result.numbers is None:
        return math.inf
    rel = result.numbers.rel_l2
    return 2 + sum(rel > limit for limit in _LIMITS) if math.isfinite(rel) else math.inf


def _shade_of(result: TensorDiff) -> str:
    badness = _badness(result)
    return "hx" if badness == math.inf else f"h{badness:.0f}"


def dot_plot(moved: Displaced) -> str:
    """Return a plot of displaced content: across, where it lies; down, where it belongs."""
    span = max(1, moved.stop - moved.start)
    side = min(_PLOT, max(4, span) * _DOT)
    step = side / span
    dots = "".join(
        f'<rect x="{(place - moved.start) * step:.1f}" y="{(home - moved.start) * step:.1f}" '
        f'width="{max(3.0, step):.1f}" height="{max(3.0, step):.1f}"/>'
        for place, home in moved.pairs
    )
    unit = html_text(f"{moved.where}{moved.unit}s {moved.start} to {moved.stop - 1}")
    edge = side + 2
    return (
        f'<figure><svg class="dots" viewBox="-1 -1 {edge} {edge}" width="{edge}" height="{edge}" '
        f'role="img" aria-label="dot plot"><rect class="frame" width="{side}" height="{side}"/>'
        f'<path class="own" d="M0 0L{side} {side}"/>{dots}</svg>'
        f"<figcaption>{unit}: across, where each lies; down, where it belongs "
        f"(dotted: in its own place)</figcaption></figure>"
    )


def worst_with_map(results: Sequence[TensorDiff], names: Iterable[str]) -> TensorDiff | None:
    """Return the tensor of these names that differs most and has a heat map."""
    wanted = set(names)
    found = [r for r in results if r.name in wanted and r.numbers and r.numbers.grid]
    return max(found, key=lambda r: r.numbers.rel_l2 if r.numbers else 0, default=None)
