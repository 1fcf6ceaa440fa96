"""A layer in Hugging Face's names. Source: transformers' models, with eager attention."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.experts import ExpertsOf
from ckptdiff.forward.latent import LatentOf

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.holdings import HeldTensor


class HuggingFaceLayer(ExpertsOf, LatentOf):
    """The layer of Llama, and of families with the same names.

    A family that differs in more than a bias or a norm has a class of its own in `families`.
    """

    embedding, final, head = "embed_tokens.weight", "norm", "lm_head.weight"
    norm_names = ("input_layernorm", "post_attention_layernorm")
    behind_names = ("post_attention_layernorm", "post_feedforward_layernorm")
    out_names = ("self_attn.o_proj", "mlp.down_proj")
    gate_name, up_name = "mlp.gate_proj", "mlp.up_proj"
    shared = "mlp.shared_experts"

    @property
    def features(self) -> frozenset[str]:
        found = set(super().features)
        is_plain = self.model.latent is None and self.has("self_attn.q_proj.weight")
        if self.model.qk_norm and is_plain:
            found.add("norm_heads")  # whether or not the file holds the weights of the norms
        if any(name.startswith("mlp.shared_expert") for name in self.ranks[0]):
            found.add("shared experts")
        return frozenset(found)

    # ── outside of the layers ────────────────────────────────────────────────────────────────────

    def embed(self, ids: Tensor) -> Tensor:
        return self.scaled(self.reader.rows(self.held(self.embedding), ids))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(self.final, x)

    def head_parts(self) -> tuple[HeldTensor, ...]:
        tied = self.model.tied and not self.has(self.head)
        return (self.held(self.embedding if tied else self.head),)

    # ── attention ────────────────────────────────────────────────────────────────────────────────

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm(self.norm_names[0], x)

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (positions, heads, channels)."""
        names = [f"self_attn.{part}_proj" for part in "qkv"]
        weights = [self.weight(f"{name}.weight") for name in names]
        biases = [self.optional(f"{name}.bias") for name in names]
        return self.by_heads(self.products(h, weights, biases))

    def by_heads(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(y.reshape(len(y), -1, self.model.kv_channels) for y in parts)

    def norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if "norm_heads" not in self.features:
            return q, k
        return self.each_head("self_attn.q_norm", q), self.each_head("self_attn.k_norm", k)

    def attention_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, self.out_names[0])

    def norm_attention(self, x: Tensor) -> Tensor:
        return self.norm(self.behind_names[0], x)

    def compressed(self, h: Tensor, name: str, size: int) -> Tensor:  # noqa: ARG002
        return self._attention_product(h, name)

    def expanded(self, h: Tensor, name: str, channels: int) -> Tensor:
        return self._attention_product(h, name).reshape(len(h), -1, channels)

    def _attention_product(self, h: Tensor, name: str) -> Tensor:
        name = f"self_attn.{name}"
        return self.arithmetic.linear(
            h, self.weight(f"{name}.weight"), self.optional(f"{name}.bias")
        )

    # ── MLP ──────────────────────────────────────────────────────────────────────────────────────

    def norm2(self, x: Tensor) -> Tensor:
        return self.norm(self.norm_names[1], x)

    def activate(self, h: Tensor) -> Tensor:
        if not self.model.gated:
            return self.activated(self.linear(h, self.up_name))
        names = self.gate_name, self.up_name
        weights = [self.weight(f"{name}.weight") for name in names]
        gate, up = self.products(h, weights, [self.optional(f"{name}.bias") for name in names])
        return self.gated(gate, up)

    def mlp_out(self, act: Tensor) -> Tensor:
        return self.row_parallel(act, self.out_names[1])

    def norm_mlp(self, x: Tensor) -> Tensor:
        return self.norm(self.behind_names[1], x)

    # ── experts ──────────────────────────────────────────────────────────────────────────────────

    def expert_gate_up(self, expert: int, etp_rank: int) -> Tensor:  # noqa: ARG002
        return self._gate_up(expert, "weight")

    def expert_down(self, expert: int, etp_rank: int) -> Tensor:  # noqa: ARG002
        return self.expert_tensor(f"mlp.experts.{expert}.down_proj.weight")

    def expert_gate_up_bias(self, expert: int) -> Tensor | None:
        return self._gate_up(expert, "bias") if self.has_expert_biases else None

    def expert_down_bias(self, expert: int) -> Tensor | None:
        name = f"mlp.experts.{expert}.down_proj.bias"
        return self.expert_tensor(name) if self.has_expert_biases else None

    def _gate_up(self, expert: int, kind: str) -> Tensor:
        parts = ("gate", "up") if self.model.gated else ("up",)
        names = [f"mlp.experts.{expert}.{part}_proj.{kind}" for part in parts]
        return torch.cat([self.expert_tensor(name) for name in names])

    def activate_shared(self, h: Tensor) -> Tensor:
        if not self.model.gated:
            return self.activated(self.linear(h, f"{self.shared}.up_proj"))
        names = [f"{self.shared}.{part}_proj" for part in ("gate", "up")]
        weights = [self.weight(f"{name}.weight") for name in names]
        gate, up = self.products(h, weights, [self.optional(f"{name}.bias") for name in names])
        return self.gated(gate, up)

    def shared_out(self, act: Tensor, h: Tensor) -> Tensor:
        given = self.row_parallel(act, f"{self.shared}.down_proj")
        return self.gated_shared(given, h, f"{self.shared}_gate.weight")

    # ── products ─────────────────────────────────────────────────────────────────────────────────

    def linear(self, x: Tensor, name: str) -> Tensor:
        return self.arithmetic.linear(
            x, self.weight(f"{name}.weight"), self.optional(f"{name}.bias")
        )

    def products(
        self, x: Tensor, weights: list[Tensor], biases: list[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Return x times each weight: one product, then split, if the arithmetic is fused."""
        if not self.arithmetic.fused:
            return tuple(
                self.arithmetic.linear(x, w, b) for w, b in zip(weights, biases, strict=True)
            )
        bias = None
        if any(b is not None for b in biases):
            pairs = zip(weights, biases, strict=True)
            bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in pairs])
        ends = list(accumulate(len(w) for w in weights))
        return torch.tensor_split(
            self.arithmetic.linear(x, torch.cat(weights), bias), ends[:-1], -1
        )

    def row_parallel(self, x: Tensor, name: str) -> Tensor:
        part = x, self.weight(f"{name}.weight")
        return self.arithmetic.row_parallel([part], self.optional(f"{name}.bias"))
