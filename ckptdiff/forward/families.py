"""Families of transformers whose layers are named or stored differently from Llama's.

Sources: transformers' modeling_gemma2, modeling_gemma3, modeling_gpt2, modeling_gpt_neox,
modeling_gpt_oss, modeling_olmo2, modeling_olmoe, modeling_phi3, modeling_qwen2_moe.
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


class OlmoeLayer(HuggingFaceLayer):
    """Queries, keys and values are clamped."""

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        q, k, v = super().project(h)
        return q, k, self._clamped(v)

    def norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = super().norm_heads(q, k)
        return self._clamped(q), self._clamped(k)

    def _clamped(self, x: Tensor) -> Tensor:
        limit = self.model.qkv_limit
        return x if limit is None else x.clamp(-limit, limit)


class GptOssLayer(HuggingFaceLayer):
    """The router has a name and a bias of its own; norms keep float32 beside float16."""

    router_name = "mlp.router.weight"

    def weight(self, name: str, rank: int | None = None) -> Tensor:
        computed, cast = self.reader.dtype, self.reader.cast_dtype
        # In float64, float16 is emulated.
        is_half = computed == torch.float16 or (computed, cast) == (torch.float64, torch.float16)
        if is_half and name.endswith("norm.weight"):
            return self.reader.casting(None).wide_tensor(self.held(name, rank))
        return super().weight(name, rank)

    def expert_gate_up(self, expert: int, etp_rank: int) -> Tensor:
        # In memory input features come first, as stored: other layouts are summed in other orders.
        return super().expert_gate_up(expert, etp_rank).t().contiguous().t()


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
        return self.gated(gate, up)


class GptNeoxLayer(HuggingFaceLayer):
    """Queries, keys and values are one matrix, head by head."""

    embedding, final = "embed_in.weight", "final_layer_norm"
    out_names = ("attention.dense", "mlp.dense_4h_to_h")
    up_name = "mlp.dense_h_to_4h"

    def project(self, h: Tensor) -> tuple[Tensor, ...]:
        heads = self.model.num_attention_heads
        joined = self.linear(h, "attention.query_key_value").reshape(len(h), heads, -1)
        return joined.chunk(3, -1)


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
    "gpt_neox": GptNeoxLayer,
    "gpt_oss": GptOssLayer,
    "olmoe": OlmoeLayer,
    "phi3": Phi3Layer,
    "qwen2_moe": Qwen2MoeLayer,
    "qwen3_next": Qwen3NextLayer,
    "qwen3_5_text": Qwen35Layer,
    "qwen3_5_moe_text": Qwen35Layer,
}
