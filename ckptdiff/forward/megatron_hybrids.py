"""Hybrids in Megatron's names, rank by rank. Source: megatron.core.ssm.gated_delta_net, 0.16.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.delta_net import DeltaNetOf
from ckptdiff.forward.megatron import MegatronLayer

if TYPE_CHECKING:
    from torch import Tensor


class MegatronHybridLayer(DeltaNetOf, MegatronLayer):
    """A layer of a hybrid. A rank holds some heads: its rows of each part, one part after another.

    The norm of a DeltaNet is stored like all others: with apply_layernorm_1p less one.
    """

    net, net_norm = "self_attention", "out_norm"

    def project_delta(self, h: Tensor) -> tuple[Tensor, ...]:
        net, parts = self.delta_net, []
        values = net.value_heads * net.value_channels
        sizes = [*self.convolved_sizes, values, net.value_heads, net.value_heads]
        for rank, _ in self.by_rank(f"{self.net}.in_proj.weight"):
            y = self.column_parallel(h, f"{self.net}.in_proj", rank)
            parts.append(torch.split(y, self._of_a_rank(sizes), -1))
        return self.with_heads(*(torch.cat(part, -1) for part in zip(*parts, strict=True)))

    def convolution(self, name: str) -> tuple[Tensor, ...]:
        sizes = self._of_a_rank(self.convolved_sizes)
        parts = [torch.split(self.weight(name, rank), sizes) for rank, _ in self.by_rank(name)]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def by_value_head(self, name: str) -> Tensor:
        return torch.cat([self.weight(name, rank) for rank, _ in self.by_rank(name)])

    def norm_of_heads(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x)

    def _of_a_rank(self, sizes: list[int]) -> list[int]:
        return [size // len(self.ranks) for size in sizes]
