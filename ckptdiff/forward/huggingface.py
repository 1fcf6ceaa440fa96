"""A model in Hugging Face's names, whole. Source: transformers' models, eager attention."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf

if TYPE_CHECKING:
    from torch import Tensor


class HuggingFaceLayer(LayerOf):
    """Llama's layer, and those of the families that differ from it in a bias or a norm."""

    @property
    def features(self) -> frozenset[str]:
        return frozenset({"norm_heads"} if self.has("self_attn.q_norm.weight") else ())

    # ── outside of the layers ────────────────────────────────────────────────────────────────────

    def embed(self, ids: Tensor) -> Tensor:
        return self.reader.rows(self.held("embed_tokens.weight"), ids)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm("norm", x)

    def logits(self, x: Tensor) -> Tensor:
        tied = self.model.tied and not self.has("lm_head.weight")
        return self.product(x, self.held("embed_tokens.weight" if tied else "lm_head.weight"))

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm("input_layernorm", x)

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        names = [f"self_attn.{part}_proj" for part in "qkv"]
        weights = [self.weight(f"{name}.weight") for name in names]
        biases = [self.optional(f"{name}.bias") for name in names]
        return tuple(
            y.reshape(len(h), -1, self.model.kv_channels) for y in self.products(h, weights, biases)
        )

    def norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if not self.has("self_attn.q_norm.weight"):
            return q, k
        return self.norm("self_attn.q_norm", q), self.norm("self_attn.k_norm", k)

    def attention_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, "self_attn.o_proj")

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm("post_attention_layernorm", x)

    def activate(self, h: Tensor) -> Tensor:
        names = ["mlp.gate_proj", "mlp.up_proj"]
        weights = [self.weight(f"{name}.weight") for name in names]
        gate, up = self.products(h, weights, [self.optional(f"{name}.bias") for name in names])
        return self.how.gate(gate, up, self.model.activation)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, "mlp.down_proj")

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def products(
        self, x: Tensor, weights: list[Tensor], biases: list[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Return x times each of the weights, in one product where the arithmetic joins them."""
        if not self.how.fused:
            return tuple(self.how.linear(x, w, b) for w, b in zip(weights, biases, strict=True))
        held = [b for b in biases if b is not None]
        bias = torch.cat(held) if len(held) == len(biases) else None
        ends = list(accumulate(len(w) for w in weights))
        return torch.tensor_split(self.how.linear(x, torch.cat(weights), bias), ends[:-1], -1)

    def row_parallel(self, x: Tensor, name: str) -> Tensor:
        part = x, self.weight(f"{name}.weight")
        return self.how.row_parallel([part], self.optional(f"{name}.bias"))
