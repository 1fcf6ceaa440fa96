"""Gather canonical names under the layer they belong to."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.diff import TensorDiff

# Everything up to the first number that is a whole component: `model.layers.12`, `blocks.3`.
_LAYER = re.compile(r"(.*?\.)??(?:[^.]+\.)?\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A native name that no rule of the family knows."""

    side: Literal["a", "b"]
    name: str


@dataclass(slots=True, eq=False)
class Layer:
    """Names that are shown together under one head, or with an empty title by themselves."""

    title: str
    names: list[str] = field(default_factory=list)
    is_first: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    max_abs: float | None = None  # the worst of the results so far
    cosine: float | None = None

    def add(self, result: TensorDiff) -> None:
        """Take a result's numbers into the worst of the layer."""
        numbers = result.numbers
        if numbers is None:
            return
        self.max_abs = (
            numbers.max_abs if self.max_abs is None else max(self.max_abs, numbers.max_abs)
        )
        self.cosine = numbers.cosine if self.cosine is None else min(self.cosine, numbers.cosine)


def layers_of(names: Iterable[str]) -> tuple[list[Layer], dict[str, Layer]]:
    """Return the layers in the names' order, and the layer of each name."""
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
        layer.counts["to_do"] += 1
        layer_of[name] = layer
    return layers, layer_of
