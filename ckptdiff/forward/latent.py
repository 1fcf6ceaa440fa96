"""Multi-latent attention: queries, keys and values are expanded from latent vectors (DeepSeek).

Sources: transformers' modeling_deepseek_v3; megatron.core.transformer.multi_latent_attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import Latent


class LatentOf(LayerOf):
    """Latent attention; a side's class says how it projects. Values are (positions, …)."""

    q_down, q_norm, q_up, q_whole = "q_a_proj", "q_a_layernorm", "q_b_proj", "q_proj"
    kv_down, kv_norm, kv_up = "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"
    attention = "self_attn"

    @property
    def latent(self) -> Latent:
        found = self.model.latent
        assert found is not None
        return found

    def compressed(self, h: Tensor, name: str, size: int) -> Tensor:
        """Return the projection `name` of h into the latent space: (positions, size)."""
        raise NotImplementedError

    def expanded(self, h: Tensor, name: str, channels: int) -> Tensor:
        """Return the projection `name` out of the latent space: (positions, heads, channels)."""
        raise NotImplementedError

    def compress_queries(self, h: Tensor) -> Tensor:
        assert self.latent.query_rank is not None
        return self.compressed(h, self.q_down, self.latent.query_rank)

    def norm_queries(self, latent: Tensor) -> Tensor:
        return self._norm(self.q_norm, latent)

    def compress_keys(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent of keys and values, and the rotated part of keys, one for all heads."""
        sizes = [self.latent.rank, self.latent.rotated]
        both = self.compressed(h, self.kv_down, sum(sizes))
        latent, shared = torch.split(both, sizes, -1)
        return latent, shared[:, None]  # (positions, rank), (positions, 1, rotated)

    def norm_keys(self, latent: Tensor) -> Tensor:
        return self._norm(self.kv_norm, latent)

    def expand(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys without the rotated channels, and values: (positions, heads, …)."""
        sizes = [self.latent.unrotated, self.latent.value]
        name = self.q_whole if self.latent.query_rank is None else self.q_up
        q = self.expanded(queries, name, self.latent.unrotated + self.latent.rotated)
        k, v = torch.split(self.expanded(keys, self.kv_up, sum(sizes)), sizes, -1)
        return q, k, v

    def rotate_latent(self, q: Tensor, k: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotated queries and keys, each (positions, heads, unrotated + rotated)."""
        rope = self.layer.rope
        unrotated, rotated = torch.split(q, [self.latent.unrotated, self.latent.rotated], -1)
        if rope is not None:
            rotated, shared = self.rotated(rope, rotated), self.rotated(rope, shared)
        shared = shared.expand(-1, k.shape[1], -1)
        return torch.cat((unrotated, rotated), -1), torch.cat((k, shared), -1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Return x normalised if the norm is there: in Megatron it is an option."""
        name = f"{self.attention}.{name}"
        return self.norm(name, x, self.latent.epsilon) if self.has(f"{name}.weight") else x
