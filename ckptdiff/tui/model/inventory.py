"""The tensors of one checkpoint or two: names, sizes, and the layers they belong to."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ckptdiff.assembly.packed import packed_apart
from ckptdiff.text import format_shape, number_ranges
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.results import TensorDiff

# A name up to the first component that is a number: `model.layers.12`, `blocks.3`.
_LAYER = re.compile(r"(.*?\.)??(?:[^.]+\.)?\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A native name that no rule of the family covers. It counts as a difference."""

    side: Literal["a", "b"]
    name: str
    ref: TensorRef | None  # the first rank's; None for optimizer state that belongs to no weight


@dataclass(slots=True, eq=False)
class Layer:
    """Names that fold under one heading. With an empty title, names without a heading."""

    title: str
    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    is_first: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    max_abs: float | None = None  # the largest of the results so far
    cosine: float | None = None  # the smallest

    @property
    def name(self) -> str:
        return self.title

    def add(self, result: TensorDiff) -> None:
        """Update the layer's worst numbers with a result."""
        if result.numbers is None:
            return
        max_abs, cosine = result.numbers.max_abs, result.numbers.cosine
        self.max_abs = max_abs if self.max_abs is None else max(self.max_abs, max_abs)
        self.cosine = cosine if self.cosine is None else min(self.cosine, cosine)

    def clear(self) -> None:
        """Drop all results."""
        self.counts = Counter(to_do=len(self.names))
        self.max_abs = self.cosine = None


@dataclass(slots=True, eq=False)
class LayerRun(Layer):
    """Layers next to each other under one folded heading, `model.layers.0-11`: none differs."""

    layers: Sequence[Layer] = ()


def run_of(layers: Sequence[Layer]) -> LayerRun:
    """Return one heading for layers that have one prefix, with what is known of all of them."""
    prefix = _prefix(layers[0])
    numbers = number_ranges([int(layer.title.rpartition(".")[2]) for layer in layers])
    run = LayerRun(f"{prefix}.{numbers}" if prefix else numbers, layers=tuple(layers))
    for layer in layers:
        run.names += layer.names
        run.nbytes += layer.nbytes
        run.counts.update(layer.counts)
    measured = [layer for layer in layers if layer.max_abs is not None]
    run.max_abs = max(
        (layer.max_abs for layer in measured if layer.max_abs is not None), default=None
    )
    run.cosine = min((layer.cosine for layer in measured if layer.cosine is not None), default=None)
    return run


def can_run_on(one: Layer, other: Layer) -> bool:
    """Return whether two layers can share a heading: their titles differ in the number alone."""
    return bool(one.title and other.title) and _prefix(one) == _prefix(other)


def _prefix(layer: Layer) -> str:
    return layer.title.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The names of both sides, with sizes and layers.

    Made in a worker thread: for 90,000 names it would hold up key presses.
    """

    names: Sequence[str] = ()  # canonical, in model order
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes, both sides together
    layers: Sequence[Layer] = ()
    layer_of: Mapping[str, Layer] = field(default_factory=dict)
    unmapped: Sequence[Unmapped] = ()
    shape_width: int = 0  # cells of the longest text in the shape column


def layer_title(name: str) -> str:
    """Return a name up to its first number: `model.layers.12`, or "" if it has none."""
    found = _LAYER.match(name)
    return found.group() if found else ""


def take_inventory(
    names: Iterable[str], a: Assembled | None, b: Assembled | None = None
) -> Inventory:
    """Return the names grouped by layer, with their sizes added up over both sides."""
    names = list(names)
    sizes = dict.fromkeys(names, 0)
    for side in (a, b):
        if side is not None:
            for name, assembly in side.tensors.items():
                sizes[name] += assembly.nbytes
            for name, nbytes in packed_apart(side).items():
                sizes[name] += nbytes
    layers: list[Layer] = []
    by_title: dict[str, Layer] = {}
    layer_of: dict[str, Layer] = {}
    for name in names:
        title = layer_title(name)
        layer = by_title.get(title)
        if not title and layers and not layers[-1].title:
            layer = layers[-1]
        if layer is None:
            layer = Layer(title, is_first=bool(title) and not by_title)
            layers.append(layer)
            if title:
                by_title[title] = layer
        layer.names.append(name)
        layer.nbytes += sizes[name]
        layer_of[name] = layer
    for layer in layers:
        layer.clear()
    unmapped = _unmapped("a", a) + _unmapped("b", b)
    shapes = {assembly.shape for side in (a, b) if side for assembly in side.tensors.values()}
    shapes.update(row.ref.shape for row in unmapped if row.ref is not None)
    words = [format_shape(shape) for shape in shapes]
    titled = sum(len(layer.names) for layer in layers if layer.title)
    words += [plural(titled, "tensor")] if titled else []  # a heading may stand for all of them
    shape_width = max(map(len, words), default=0)
    return Inventory(names, sizes, layers, layer_of, unmapped, shape_width)


def _unmapped(side: Literal["a", "b"], assembled: Assembled | None) -> list[Unmapped]:
    if assembled is None or not assembled.unmapped:
        return []
    refs: dict[str, TensorRef] = {}
    for shard in reversed(assembled.checkpoint.shards):
        refs.update((ref.name, ref) for ref in shard.tensors.values())
    return [Unmapped(side, name, refs.get(name)) for name in assembled.unmapped]
