"""A model in Megatron's names, from what each tensor parallel rank holds, computed as ranks do.

Source: megatron.core.models.gpt with the local layer spec, 0.16.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.holdings import Held


class MegatronLayer(LayerOf):
    """A GPTModel's layer. Columns of a product are cut over ranks, rows are added up over them."""

    @property
    def features(self) -> frozenset[str]:
        has = self.has("self_attention.q_layernorm.weight")
        return frozenset({"norm_heads"} if has else ())

    # ── outside of the layers ────────────────────────────────────────────────────────────────────

    def embed(self, ids: Tensor) -> Tensor:
        """Return the rows of the tokens: each rank has a range of them, and gives zeros beyond."""
        total: Tensor | None = None
        for rank, held in self.each("word_embeddings.weight"):
            size = held.shape[0]
            mine = (ids >= rank * size) & (ids < (rank + 1) * size)
            rows = self.reader.rows(held, torch.where(mine, ids - rank * size, 0))
            rows = torch.where(mine[:, None].to(rows.device), rows, 0)
            total = rows if total is None else total + rows
        assert total is not None
        return total

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm("final_layernorm", x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of all tokens and padding. A later stage has a copy of a tied head."""
        own = self.has("output_layer.weight")
        name = "output_layer.weight" if own else "word_embeddings.weight"
        return torch.cat([self.product(x, held) for _, held in self.each(name)], -1)

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
            self.norm("self_attention.q_layernorm", q),
            self.norm("self_attention.k_layernorm", k),
        )

    def attention_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, "self_attention.linear_proj")

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm("pre_mlp_layernorm", x)

    def activate(self, h: Tensor) -> Tensor:
        """Each rank has its share of the gate, then its share of up."""
        parts = []
        for rank, _ in self.each("mlp.linear_fc1.weight"):
            y = self.column(h, "mlp.linear_fc1", rank)
            gate, up = y.chunk(2, -1)
            parts.append(self.how.gate(gate, up, self.model.activation))
        return torch.cat(parts, -1)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, "mlp.linear_fc2")

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def each(self, name: str) -> Iterator[tuple[int, Held]]:
        for rank in range(len(self.ranks)):
            yield rank, self.held(name, rank)

    def column(self, x: Tensor, name: str, rank: int) -> Tensor:
        weight = self.weight(f"{name}.weight", rank)
        return self.how.linear(x, weight, self.optional(f"{name}.bias", rank))

    def row_parallel(self, x: Tensor, name: str) -> Tensor:
        weights = (self.weight(f"{name}.weight", rank) for rank, _ in enumerate(self.ranks))
        parts = zip(x.chunk(len(self.ranks), -1), weights, strict=True)
        return self.how.row_parallel(parts, self.optional(f"{name}.bias"))
