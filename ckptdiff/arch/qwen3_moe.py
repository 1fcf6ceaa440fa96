"""Qwen3-MoE: Qwen3's attention and routed experts."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.llama import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    MLP,
    MLP_NORM,
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS
from ckptdiff.arch.qwen3 import QK_NORM

QWEN3_MOE = Architecture(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    model_types=("qwen3_moe",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        *QK_NORM,
        MLP_NORM,
        *MLP,
        *QWEN_EXPERTS,
        FINAL_NORM,
        HEAD,
    ),
    marks=(QK_NORM[0].megatron, QWEN_EXPERTS[0].megatron),
    fused=FUSED_EXPERTS,
    computes_logits=True,
)

# The language model inside Qwen3-VL-MoE; on disk its fused experts are stored as (in, out).
QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    name="qwen3_vl_moe",
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    model_types=("qwen3_vl_moe", "qwen3_vl_moe_text"),
    fused=tuple(replace(fused, transposed=True, on_disk=True) for fused in FUSED_EXPERTS),
    computes_logits=False,
)
