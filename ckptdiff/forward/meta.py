"""A layer in Meta's names, computed rank by rank from what each model parallel rank holds.

Sources: model.py of Meta's llama and llama3, and the layers of fairscale.nn.model_parallel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.arithmetic import deinterleaved
from ckptdiff.forward.layer import LayerOf

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.holdings import HeldTensor


class MetaLayer(LayerOf):
    """A TransformerBlock. Column-parallel products are joined over ranks, row-parallel added."""

    # ── outside of the layers ────────────────────────────────────────────────────────────────────

    def embed(self, ids: Tensor) -> Tensor:
        """Return (positions, hidden). The table is split by columns (Llama 2) or by rows."""
        name = "tok_embeddings.weight"
        held = [self.held(name, rank) for rank in range(len(self.ranks))]
        if len(held) == 1 or held[0].shape[1] < self.model.hidden_size:
            return torch.cat([self.reader.rows(part, ids) for part in held], -1)
        return self.vocab_parallel_rows(ids, held)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm("norm", x)

    def head_parts(self) -> tuple[HeldTensor, ...]:
        name = "output.weight" if self.has("output.weight") else "tok_embeddings.weight"
        return tuple(self.held(name, rank) for rank in range(len(self.ranks)))

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm("attention_norm", x)

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (positions, heads, channels).

        Rotary pairs are neighbours in Meta's rows. They are returned as a channel of each half, as
        in the other programs.
        """
        q, k, v = (
            self.column_parallel(h, f"attention.w{part}").reshape(
                len(h), -1, self.model.kv_channels
            )
            for part in "qkv"
        )
        # With more ranks than key and value heads, neighbouring ranks hold copies of a head.
        copies = max(1, k.shape[1] // self.model.num_query_groups)
        k, v = k[:, ::copies], v[:, ::copies]
        return deinterleaved(q), deinterleaved(k), v

    def attention_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, "attention.wo")

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm("ffn_norm", x)

    def activate(self, h: Tensor) -> Tensor:
        gate, up = (self.column_parallel(h, f"feed_forward.w{part}") for part in "13")
        return self.arithmetic.gate(gate, up, self.model.activation)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, "feed_forward.w2")

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def column_parallel(self, x: Tensor, name: str) -> Tensor:
        weights = (self.weight(f"{name}.weight", rank) for rank in range(len(self.ranks)))
        return torch.cat([self.arithmetic.linear(x, weight) for weight in weights], -1)
