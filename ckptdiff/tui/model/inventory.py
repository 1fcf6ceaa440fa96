"""What there is to show of one checkpoint or two: names, sizes, and the layers they belong to."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Literal

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.text import format_shape
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.results import TensorDiff

# Everything up to the first number that is a whole component: `model.layers.12`, `blocks.3`.
_LAYER = re.compile(r"(.*?\.)??(?:[^.]+\.)?\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A native name that no rule of the family knows: it counts as a difference."""

    side: Literal["a", "b"]
    name: str
    ref: TensorRef | None  # the first rank's; None for optimizer state that is no tensor's


@dataclass(slots=True, eq=False)
class Layer:
    """Names that are shown together under one head, or with an empty title by themselves."""

    title: str
    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    is_first: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    max_abs: float | None = None  # the worst of the results so far
    cosine: float | None = None

    @property
    def name(self) -> str:
        return self.title

    def add(self, result: TensorDiff) -> None:
        """Take a result's numbers into the worst of the layer."""
        if result.numbers is None:
            return
        max_abs, cosine = result.numbers.max_abs, result.numbers.cosine
        self.max_abs = max_abs if self.max_abs is None else max(self.max_abs, max_abs)
        self.cosine = cosine if self.cosine is None else min(self.cosine, cosine)

    def clear(self) -> None:
        """Forget the results."""
        self.counts = Counter(to_do=len(self.names))
        self.max_abs = self.cosine = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Made in a worker thread: for 90,000 names it takes longer than a key press may."""

    names: Sequence[str] = ()  # canonical, in model order
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes, both sides together
    layers: Sequence[Layer] = ()
    layer_of: Mapping[str, Layer] = field(default_factory=dict)
    unmapped: Sequence[Unmapped] = ()
    shape_width: int = 0  # cells of the longest shape, or of a layer's number of tensors


def take_inventory(
    names: Iterable[str], a: Assembled | None, b: Assembled | None = None
) -> Inventory:
    """Gather names under their layers and add up sizes."""
    names = list(names)
    sizes = dict.fromkeys(names, 0)
    for side in (a, b):
        if side is not None:
            for name, assembly in side.tensors.items():
                sizes[name] += prod(assembly.shape) * ITEMSIZE[assembly.dtype]
    layers: list[Layer] = []
    by_title: dict[str, Layer] = {}
    layer_of: dict[str, Layer] = {}
    for name in names:
        found = _LAYER.match(name)
        title = found.group() if found else ""
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
    words += [plural(len(layer.names), "tensor") for layer in layers if layer.title]
    shape_width = max(map(len, words), default=0)
    return Inventory(names, sizes, layers, layer_of, unmapped, shape_width)


def _unmapped(side: Literal["a", "b"], assembled: Assembled | None) -> list[Unmapped]:
    if assembled is None or not assembled.unmapped:
        return []
    refs: dict[str, TensorRef] = {}
    for shard in reversed(assembled.checkpoint.shards):
        refs.update(shard.tensors)
    return [Unmapped(side, name, refs.get(name)) for name in assembled.unmapped]
