"""How far apart two values are, computed a block at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Elements that are widened to float64 at a time: on a CPU they stay in its cache.
_BLOCK = {"cpu": 1 << 15}
_LARGE_BLOCK = 1 << 24


class Distance:
    """|a-b| / |a|, Euclidean norms in float64 over all parts that were added."""

    def __init__(self) -> None:
        self._apart: Tensor | float = 0.0  # sum of squares of a-b
        self._size: Tensor | float = 0.0  # sum of squares of a
        self._alike = True

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add a part: two tensors of one shape, or the distance is infinite."""
        if a.shape != b.shape:
            self._alike = False
            return
        for x, y in _wide_parts(a, b):
            self._size = self._size + x.dot(x)
            x -= y
            self._apart = self._apart + x.dot(x)

    @property
    def rel(self) -> float:
        """The distance; infinite if it is not finite."""
        if not self._alike:
            return math.inf
        apart, size = math.sqrt(float(self._apart)), math.sqrt(float(self._size))
        if apart == 0:
            return 0.0
        rel = apart / size if size else math.inf
        return rel if math.isfinite(rel) else math.inf


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Return |a-b| / |a|, Euclidean norms in float64; infinite if not finite or of other shapes."""
    distance = Distance()
    distance.add(a, b)
    return distance.rel


def square_of_difference(a: Tensor, b: Tensor) -> float:
    """Return the sum of (a-b)², in float64; a and b have one shape."""
    total: Tensor | float = 0.0
    for x, y in _wide_parts(a, b):
        x -= y
        total = total + x.dot(x)
    return float(total)


def _wide_parts(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield equal parts of two tensors of one shape: a copy of a's in float64, and b's."""
    size = _BLOCK.get(a.device.type, _LARGE_BLOCK)
    for x, y in zip(*(torch.split(v.reshape(-1), size) for v in (a, b)), strict=True):
        yield x.to(torch.float64, copy=True), y
