"""Qwen2-MoE: Qwen2's attention, routed experts, and a shared expert with a gate of its own."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, replicated
from ckptdiff.arch.llama import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MEGATRON,
    MLP,
    MLP_NORM,
    OPTIONAL_QKV_BIAS,
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS, has_shared_experts, shared_experts

SHARED_GATE = replace(
    replicated(f"{MEGATRON}mlp.shared_experts.gate_weight", f"{HF}mlp.shared_expert_gate.weight"),
    promised=has_shared_experts,
)

QWEN2_MOE = Architecture(
    name="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    model_types=("qwen2_moe",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        OPTIONAL_QKV_BIAS,
        MLP_NORM,
        *MLP,
        *QWEN_EXPERTS,
        *shared_experts("mlp.shared_expert."),
        SHARED_GATE,
        FINAL_NORM,
        HEAD,
    ),
    marks=(SHARED_GATE.megatron,),
    fused=FUSED_EXPERTS,
    computes_logits=True,
)
