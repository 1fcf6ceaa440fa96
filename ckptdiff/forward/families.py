"""Families of transformers whose layers are named or stored differently from Llama's.

Sources: transformers' modeling_gemma2, modeling_gemma3, modeling_gpt2, modeling_olmo2,
modeling_phi3, modeling_qwen2_moe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.huggingface import HuggingFaceLayer
from ckptdiff.forward.hybrids import NemotronHLayer, Qwen3NextLayer, Qwen35Layer

if TYPE_CHECKING:
    from torch import Tensor


class Gemma2Layer(HuggingFaceLayer):
    """Norms before and after attention, and before and after the MLP."""

    norm_names = ("input_layernorm", "pre_feedforward_layernorm")


class Qwen2MoeLayer(HuggingFaceLayer):
    """The shared expert is named in the singular."""

    shared = "mlp.shared_expert"


class Phi3Layer(HuggingFaceLayer):
    """Queries, keys and values are one matrix, and so are gate and up."""

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        channels = self.model.kv_channels
        queries = self.model.num_attention_heads * channels
        groups = self.model.num_query_groups * channels
        joined = self.linear(h, "self_attn.qkv_proj")
        return self.by_heads(torch.split(joined, [queries, groups, groups], -1))

    def activate(self, h: Tensor) -> Tensor:
        gate, up = self.linear(h, "mlp.gate_up_proj").chunk(2, -1)
        return self.arithmetic.gate(gate, up, self.model.activation)


class Gpt2Layer(HuggingFaceLayer):
    """Conv1D's weights are (input features, output features); positions are learned."""

    embedding, final = "wte.weight", "ln_f"
    norm_names = ("ln_1", "ln_2")
    out_names = ("attn.c_proj", "mlp.c_proj")
    up_name = "mlp.c_fc"

    def weight(self, name: str, rank: int | None = None) -> Tensor:
        weight = super().weight(name, rank)
        return weight.t() if weight.dim() == 2 else weight

    def positions(self, ids: Tensor) -> Tensor:
        return self.learned_positions(ids, "wpe.weight")

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        return self.by_heads(self.linear(h, "attn.c_attn").chunk(3, -1))


# By the `model_type` of config.json; HuggingFaceLayer for all others.
CLASSES: dict[str, type[HuggingFaceLayer]] = {
    "gemma2": Gemma2Layer,
    "gemma3_text": Gemma2Layer,
    "gpt2": Gpt2Layer,
    "nemotron_h": NemotronHLayer,
    "phi3": Phi3Layer,
    "qwen2_moe": Qwen2MoeLayer,
    "qwen3_next": Qwen3NextLayer,
    "qwen3_5_text": Qwen35Layer,
    "qwen3_5_moe_text": Qwen35Layer,
}
