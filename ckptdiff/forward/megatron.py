"""A model in Megatron's names, from what each tensor parallel rank holds, computed as ranks do.

Source: megatron.core.models.gpt with the local layer spec, 0.16.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.experts import ExpertsOf
from ckptdiff.forward.latent import LatentOf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.holdings import Held


class MegatronLayer(ExpertsOf, LatentOf):
    """A GPTModel's layer. Columns of a product are cut over ranks, rows are added up over them."""

    router_name, router_bias_name = "mlp.router.weight", "mlp.router.expert_bias"
    attention = "self_attention"
    q_down, q_norm, q_up = "linear_q_down_proj", "q_layernorm", "linear_q_up_proj"
    q_whole = "linear_q_proj"
    kv_down, kv_norm, kv_up = "linear_kv_down_proj", "kv_layernorm", "linear_kv_up_proj"

    @property
    def features(self) -> frozenset[str]:
        found = set(super().features)
        if self.model.latent is None and self.has("self_attention.q_layernorm.weight"):
            found.add("norm_heads")
        if self.has("mlp.shared_experts.linear_fc1.weight"):
            found.add("shared experts")
        return frozenset(found)

    # ── outside of the layers ────────────────────────────────────────────────────────────────────

    def embed(self, ids: Tensor) -> Tensor:
        parts = (held for _, held in self.each("word_embeddings.weight"))
        return self.scaled(self.rows_of_ranks(ids, parts))

    def positions(self, ids: Tensor) -> Tensor:
        return self.reader.rows(self.held("position_embeddings.weight"), slice(len(ids)))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm("final_layernorm", x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of all tokens and padding. A later stage has a copy of a tied head."""
        own = self.has("output_layer.weight") or not self.model.tied
        name = "output_layer.weight" if own else "word_embeddings.weight"
        product = torch.cat([self.product(x, held) for _, held in self.each(name)], -1)
        return self.how.capped(product, self.model.logit_cap)

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm("input_layernorm", x)

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Each rank has some groups: of each its query heads, then its key and its value head."""
        channels = self.model.kv_channels
        per_group = self.model.num_attention_heads // self.model.num_query_groups
        parts = []
        for rank, _ in self.each("self_attention.linear_qkv.weight"):
            y = self.column(h, "self_attention.linear_qkv", rank)
            groups = y.reshape(len(h), -1, (per_group + 2) * channels)
            q, k, v = torch.tensor_split(groups, (-2 * channels, -channels), -1)
            parts.append((q.reshape(len(h), -1, channels), k, v))  # (positions, heads, channels)
        return tuple(torch.cat(part, 1) for part in zip(*parts, strict=True))

    def norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if not self.has("self_attention.q_layernorm.weight"):
            return q, k
        return (
            self.each_head("self_attention.q_layernorm", q),
            self.each_head("self_attention.k_layernorm", k),
        )

    def attention_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, "self_attention.linear_proj")

    def norm_attention(self, x: Tensor) -> Tensor:
        return self.norm("self_attention.linear_proj.post_layernorm", x)

    def compressed(self, h: Tensor, name: str, size: int) -> Tensor:
        """Return (positions, size), which is cut over ranks, or whole on each of them."""
        name = f"{self.attention}.{name}"
        if self.held(f"{name}.weight").shape[0] == size:
            return self.column(h, name, 0)
        return torch.cat([self.column(h, name, rank) for rank, _ in enumerate(self.ranks)], -1)

    def expanded(self, h: Tensor, name: str, channels: int) -> Tensor:
        """Return (positions, heads, channels). Each rank has some of the heads."""
        name = f"{self.attention}.{name}"
        parts = [self.column(h, name, rank) for rank, _ in enumerate(self.ranks)]
        return torch.cat([y.reshape(len(h), -1, channels) for y in parts], 1)

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm("pre_mlp_layernorm", x)

    def activate(self, h: Tensor) -> Tensor:
        return self._activated(h, "mlp.linear_fc1")

    def _activated(self, h: Tensor, name: str) -> Tensor:
        """Each rank has its share of the gate, if there is one, then its share of up."""
        parts = []
        for rank, _ in self.each(f"{name}.weight"):
            y = self.column(h, name, rank)
            if self.model.gated:
                gate, up = y.chunk(2, -1)
                parts.append(self.how.gate(gate, up, self.model.activation))
            else:
                parts.append(self.how.activate(y, self.model.activation))
        return torch.cat(parts, -1)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, "mlp.linear_fc2")

    def norm_mlp(self, x: Tensor) -> Tensor:
        return self.norm("mlp.linear_fc2.post_layernorm", x)

    # ── experts ──────────────────────────────────────────────────────────────────────────────────

    @property
    def expert_shares(self) -> int:
        return sum("mlp.experts.0.linear_fc1.weight" in rank for rank in self.ranks)

    def expert_gate_up(self, expert: int, share: int) -> Tensor:
        held = self.held(f"mlp.experts.{expert}.linear_fc1.weight", share)
        return self.reader.rows(held, slice(None))

    def expert_down(self, expert: int, share: int) -> Tensor:
        held = self.held(f"mlp.experts.{expert}.linear_fc2.weight", share)
        return self.reader.rows(held, slice(None))

    def activate_shared(self, h: Tensor) -> Tensor:
        return self._activated(h, "mlp.shared_experts.linear_fc1")

    def shared_out(self, act: Tensor, h: Tensor) -> Tensor:
        given = self.row_parallel(act, "mlp.shared_experts.linear_fc2")
        gate = self.optional("mlp.shared_experts.gate_weight")
        return given if gate is None else given * functional.sigmoid(self.how.linear(h, gate))

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def each(self, name: str) -> Iterator[tuple[int, Held]]:
        for rank in range(len(self.ranks)):
            yield rank, self.held(name, rank)

    def column(self, x: Tensor, name: str, rank: int) -> Tensor:
        weight = self.weight(f"{name}.weight", rank)
        return self.how.linear(x, weight, self.optional(f"{name}.bias", rank))
