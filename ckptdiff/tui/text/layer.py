"""A layer of the tensor list in words: what it holds, and what is wrong in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, format_cosine, format_number, format_shape, printable
from ckptdiff.tui.model.comparison import DIFFERENCES, GLYPHS, URGENCY, WORDS, tally
from ckptdiff.tui.model.inventory import LayerRun
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from ckptdiff.tui.model.inventory import Layer
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line

MOST_NAMES = 5000  # whose shapes are counted: more would hold up a key
MOST_KINDS = 12  # lines of shapes


def layer_lines(session: Session, layer: Layer, width: int) -> list[Line]:
    """Return a layer's tensors, bytes, dtypes and shapes; of a pair its counts and its worst."""
    lines = wrapped(printable(layer.title), width, "strong")
    size = format_bytes(layer.nbytes)
    both = "" if session.browsing else " on both sides"
    lines += wrapped(f"{plural(len(layer.names), 'tensor')}, {size}{both}", width)
    if not session.browsing:
        lines += [line()]
        for status, count in tally(layer.counts):
            lines.append(line((f"{GLYPHS[status]} {count:,} {WORDS[status]}", _role(status))))
        lines += _worst(session, layer, width)
    names = layer.layers[0].names if isinstance(layer, LayerRun) else layer.names
    if len(names) <= MOST_NAMES:
        first = f" in {layer.layers[0].title}" if isinstance(layer, LayerRun) else ""
        lines += [line(), *_shapes(session, names, first, width)]
    return lines


def _role(status: str) -> str:
    return {"only_a": "only", "only_b": "only"}.get(status, status if status in DIFFERENCES else "")


def _shapes(session: Session, names: list[str], where: str, width: int) -> list[Line]:
    """Return a line for each shape and dtype, those of the most bytes first."""
    counts: Counter[tuple[str, str]] = Counter()
    nbytes: Counter[tuple[str, str]] = Counter()
    for name in names:
        a, b = session.assemblies(name)
        if (either := a or b) is not None:
            kind = format_shape(either.shape), either.dtype.lower()
            counts[kind] += 1
            nbytes[kind] += either.nbytes
    if not counts:
        return []
    lines = wrapped(f"Shapes{printable(where)}:", width, "dim")
    kinds = nbytes.most_common()
    room = max(len(shape) for (shape, _), _ in kinds[:MOST_KINDS])
    for (shape, dtype), size in kinds[:MOST_KINDS]:
        number = plural(counts[shape, dtype], "tensor")
        lines.append(line(f"  {shape:<{room}}  {dtype:<4}  {number:<10}  {format_bytes(size)}"))
    if len(kinds) > MOST_KINDS:
        lines.append(line((f"  and {len(kinds) - MOST_KINDS} other shapes", "dim")))
    return lines


def _worst(session: Session, layer: Layer, width: int) -> list[Line]:
    """Return the tensor of a layer that differs most; nothing if none does."""
    differing = [name for name in layer.names if session.is_difference(name)]
    if not differing:
        return []

    def badness(name: str) -> tuple[int, float]:
        result = session.results[name]
        numbers = result.numbers
        return -URGENCY.index(result.status), numbers.max_abs if numbers is not None else 0.0

    name = max(differing, key=badness)
    numbers = session.results[name].numbers
    own = printable(name.removeprefix(f"{layer.title}."))
    figures = WORDS[session.status(name)]
    if numbers is not None:
        figures = f"max|d| {format_number(numbers.max_abs)}  cos {format_cosine(numbers.cosine)}"
    return [line(), *wrapped(f"Worst: {own}", width, "strong"), *wrapped(figures, width)]
