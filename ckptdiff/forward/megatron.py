"""A layer in Megatron's names, computed rank by rank from what each tensor parallel rank holds.

Source: megatron.core.models.gpt with the local layer spec, 0.16.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.experts import ExpertsOf
from ckptdiff.forward.latent import LatentOf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.holdings import HeldTensor


class MegatronLayer(ExpertsOf, LatentOf):
    """A layer of GPTModel. Column-parallel products are joined over ranks, row-parallel added."""

    router_name, router_bias_name = "mlp.router.weight", "mlp.router.expert_bias"
    attention = "self_attention"
    sinks_name = "self_attention.core_attention.softmax_offset"
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
        parts = (held for _, held in self.by_rank("word_embeddings.weight"))
        return self.scaled(self.vocab_parallel_rows(ids, parts))

    def positions(self, ids: Tensor) -> Tensor:
        return self.learned_positions(ids, "position_embeddings.weight")

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm("final_layernorm", x)

    def head_parts(self) -> tuple[HeldTensor, ...]:
        """Return each rank's part of the head. A tied head of another stage is a copy."""
        is_copy = self.has("output_layer.weight") and not self.has("word_embeddings.weight")
        own = is_copy or not self.model.tied
        name = "output_layer.weight" if own else "word_embeddings.weight"
        return tuple(held for _, held in self.by_rank(name))

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm("input_layernorm", x)

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys, values, and gates if there are: (positions, heads, channels).

        A rank's rows follow those of the rank before it. All together are the query groups, of
        each the query heads, the gates of as many, then the key and the value head. With more ranks
        than groups, a rank holds a part of one, and Megatron gathers the product before it cuts out
        heads.
        """
        channels = self.model.kv_channels
        name = "self_attention.linear_qkv"
        ranks = self.by_rank(f"{name}.weight")
        joined = torch.cat([self.column_parallel(h, name, rank) for rank, _ in ranks], -1)
        groups = joined.reshape(len(h), self.model.num_query_groups, -1)
        q, k, v = torch.tensor_split(groups, (-2 * channels, -channels), -1)
        q, *gates = q.chunk(2, -1) if self.model.output_gate else (q,)
        q, *gates = (x.reshape(len(h), -1, channels) for x in (q, *gates))
        return q, k, v, *gates

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
        """Return (positions, size). The weight is split over ranks, or replicated."""
        name = f"{self.attention}.{name}"
        if self.held(f"{name}.weight").shape[0] == size:
            return self.column_parallel(h, name, 0)
        return torch.cat(
            [self.column_parallel(h, name, rank) for rank, _ in enumerate(self.ranks)], -1
        )

    def expanded(self, h: Tensor, name: str, channels: int) -> Tensor:
        """Return (positions, heads, channels). Each rank holds some of the heads."""
        name = f"{self.attention}.{name}"
        parts = [self.column_parallel(h, name, rank) for rank, _ in enumerate(self.ranks)]
        return torch.cat([y.reshape(len(h), -1, channels) for y in parts], 1)

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm("pre_mlp_layernorm", x)

    def activate(self, h: Tensor) -> Tensor:
        return self._activated(h, "mlp.linear_fc1")

    def _activated(self, h: Tensor, name: str, turns: int = 0) -> Tensor:
        """Return (positions, features). A rank holds its slice of the gate, if any, then of up."""
        parts = []
        for rank, _ in self.by_rank(f"{name}.weight"):
            y = self.column_parallel(h, name, rank)
            parts.append(self.activated(_gate_above_up(y.T, turns).T))
        return torch.cat(parts, -1)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, "mlp.linear_fc2")

    def norm_mlp(self, x: Tensor) -> Tensor:
        return self.norm("mlp.linear_fc2.post_layernorm", x)

    # ── experts ──────────────────────────────────────────────────────────────────────────────────

    @property
    def expert_tp(self) -> int:
        return sum("mlp.experts.0.linear_fc1.weight" in rank for rank in self.ranks)

    def expert_gate_up(self, expert: int, etp_rank: int) -> Tensor:
        weight = self.expert_tensor(f"mlp.experts.{expert}.linear_fc1.weight", etp_rank)
        return _gate_above_up(weight, self.model.expert_turns)

    def expert_down(self, expert: int, etp_rank: int) -> Tensor:
        return self.expert_tensor(f"mlp.experts.{expert}.linear_fc2.weight", etp_rank)

    def expert_gate_up_bias(self, expert: int) -> Tensor | None:
        bias = self._expert_bias(f"mlp.experts.{expert}.linear_fc1.bias")
        return None if bias is None else _gate_above_up(bias, self.model.expert_turns)

    def expert_down_bias(self, expert: int) -> Tensor | None:
        return self._expert_bias(f"mlp.experts.{expert}.linear_fc2.bias")

    def _expert_bias(self, name: str) -> Tensor | None:
        has = self.has_expert_biases and self.has(name)
        return self.expert_tensor(name, 0) if has else None

    def activate_shared(self, h: Tensor) -> Tensor:
        return self._activated(h, "mlp.shared_experts.linear_fc1", self.model.shared_turns)

    def shared_out(self, act: Tensor, h: Tensor) -> Tensor:
        given = self.row_parallel(act, "mlp.shared_experts.linear_fc2")
        return self.gated_shared(given, h, "mlp.shared_experts.gate_weight")

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def by_rank(self, name: str) -> Iterator[tuple[int, HeldTensor]]:
        for rank in range(len(self.ranks)):
            yield rank, self.held(name, rank)

    def column_parallel(self, x: Tensor, name: str, rank: int) -> Tensor:
        weight = self.weight(f"{name}.weight", rank)
        return self.arithmetic.linear(x, weight, self.optional(f"{name}.bias", rank))


def _gate_above_up(rows: Tensor, turns: int) -> Tensor:
    """Return rows with all those of the gate first, of rows of gate and up that take turns."""
    if not turns:
        return rows
    return rows.reshape(-1, 2, turns, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
