"""Hybrids in Hugging Face's names.

Sources: transformers' modeling_qwen3_next, modeling_qwen3_5 and modeling_nemotron_h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.delta_net import DeltaNetOf
from ckptdiff.forward.huggingface import HuggingFaceLayer
from ckptdiff.forward.mamba import MambaOf
from ckptdiff.forward.states import WholeState

if TYPE_CHECKING:
    from torch import Tensor


class Qwen35Layer(WholeState, DeltaNetOf, HuggingFaceLayer):
    """Attention with an output gate, or a gated DeltaNet; its norm is not zero-centered."""

    shared = "mlp.shared_expert"

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys, values and gates; q_proj has a head's query, then its gate."""
        q, k, v = super().project(h)
        return q[:, ::2], k, v, q[:, 1::2]

    def project_delta(self, h: Tensor) -> tuple[Tensor, ...]:
        joined, z, b, a = (self._projected(h, name) for name in ("qkv", "z", "b", "a"))
        return self.with_heads(*torch.split(joined, self.convolved_sizes, -1), z, b, a)

    def _projected(self, h: Tensor, part: str) -> Tensor:
        return self.arithmetic.linear(h, self.weight(f"{self.net}.in_proj_{part}.weight"))


class Qwen3NextLayer(Qwen35Layer):
    """Two projections, ordered by key head: queries, keys, values, gates; and beta, alpha."""

    def project_delta(self, h: Tensor) -> tuple[Tensor, ...]:
        net = self.delta_net
        each = net.value_heads // net.key_heads
        values = each * net.value_channels
        joined, numbers = (
            self._projected(h, name).reshape(len(h), net.key_heads, -1) for name in ("qkvz", "ba")
        )
        q, k, v, z = torch.split(joined, [net.key_channels, net.key_channels, values, values], -1)
        return self.with_heads(q, k, v, z, *torch.split(numbers, [each, each], -1))


class NemotronHLayer(WholeState, MambaOf, HuggingFaceLayer):
    """A Mamba mixer, attention, an MLP or experts: each layer is one of them, behind a norm."""

    embedding, final = "embeddings.weight", "norm_f"
    norm_names = ("norm", "norm")

    def project_mamba(self, h: Tensor) -> tuple[Tensor, ...]:
        projected = self.linear(h, f"{self.net}.in_proj")
        return self.with_groups(*torch.split(projected, self.projected_sizes, -1))
