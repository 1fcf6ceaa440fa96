"""Layers that carry a state from position to position, and how their tensors are split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf
from ckptdiff.forward.megatron import MegatronLayer
from ckptdiff.forward.recurrence import convolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class StateOf(LayerOf):
    """A layer with a state. What makes it is convolved: three parts, each in rows of its own."""

    net = ""  # the name of its module

    @property
    def convolved_sizes(self) -> list[int]:
        """Return the features of each part, over all ranks."""
        raise NotImplementedError

    def parts_of(self, name: str) -> tuple[Tensor, ...]:
        """Return a tensor of the convolution, split into the parts: (features, …)."""
        raise NotImplementedError

    def by_row(self, name: str) -> Tensor:
        """Return a tensor of the module whose rows are split over ranks."""
        raise NotImplementedError

    def convolve(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the parts, (positions, heads, channels), convolved and activated."""
        weights = self.parts_of("conv1d.weight")
        has_bias = self.optional(f"{self.net}.conv1d.bias", 0) is not None
        biases = self.parts_of("conv1d.bias") if has_bias else (None,) * len(parts)
        found = []
        for x, weight, bias in zip(parts, weights, biases, strict=True):
            y = self.arithmetic.narrowed(convolve(x.flatten(1), weight, bias), x.dtype)
            found.append(self.arithmetic.activate(y, "silu").view_as(x))
        return tuple(found)


class WholeState(StateOf):
    """Where each tensor is whole."""

    def parts_of(self, name: str) -> tuple[Tensor, ...]:
        return torch.split(self.by_row(name), self.convolved_sizes)

    def by_row(self, name: str) -> Tensor:
        return self.weight(f"{self.net}.{name}")


class RankState(StateOf, MegatronLayer):
    """Where a rank holds some heads: its rows of each part, one part after another."""

    def parts_of(self, name: str) -> tuple[Tensor, ...]:
        weights = (self.weight(f"{self.net}.{name}", rank) for rank in range(len(self.ranks)))
        return self.over_ranks(weights, self.convolved_sizes, 0)

    def by_row(self, name: str) -> Tensor:
        name = f"{self.net}.{name}"
        return torch.cat([self.weight(name, rank) for rank in range(len(self.ranks))])

    def projected(self, h: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """Return the parts of in_proj of h, of these sizes over all ranks: (positions, size)."""
        products = (
            self.column_parallel(h, f"{self.net}.in_proj", rank) for rank in range(len(self.ranks))
        )
        return self.over_ranks(products, sizes, -1)

    def over_ranks(self, held: Iterable[Tensor], sizes: list[int], dim: int) -> tuple[Tensor, ...]:
        """Return parts of these sizes, from what each rank holds of all of them along `dim`."""
        mine = [size // len(self.ranks) for size in sizes]
        parts = [torch.split(tensor, mine, dim) for tensor in held]
        return tuple(torch.cat(part, dim) for part in zip(*parts, strict=True))
