"""GLM-4.5 and 4.6: Qwen2-MoE's attention, DeepSeek's experts and multi-token prediction.

Sources: transformers' modeling_glm4_moe; Megatron-Bridge's glm45_bridge.py.
"""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.deepseek import ROUTER_BIAS, SHARED_BY_MTP, predictions
from ckptdiff.arch.llama import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    MLP,
    MLP_NORM,
    OPTIONAL_QKV_BIAS,
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS, shared_experts
from ckptdiff.arch.qwen3 import QK_NORM

_LAYER = (
    INPUT_NORM,
    *ATTENTION,
    OPTIONAL_QKV_BIAS,
    *(replace(rule, promised=lambda c: c.qk_layernorm) for rule in QK_NORM),
    MLP_NORM,
    *MLP,
    *QWEN_EXPERTS,
    ROUTER_BIAS,
    *shared_experts("mlp.shared_experts."),
)

GLM4_MOE = Architecture(
    name="glm4_moe",
    architectures=("Glm4MoeForCausalLM",),
    model_types=("glm4_moe",),
    mappings=(EMBEDDING, *_LAYER, FINAL_NORM, HEAD, *predictions(_LAYER)),
    marks=(ROUTER_BIAS.megatron, ATTENTION[0].megatron),
    shared=SHARED_BY_MTP,
    fused=FUSED_EXPERTS,
    computes_logits=True,
)
