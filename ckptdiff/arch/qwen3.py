"""Qwen3: Llama with a norm on each head of the queries and keys."""

from __future__ import annotations

from ckptdiff.arch.base import Architecture, norm
from ckptdiff.arch.llama import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MEGATRON,
    MLP,
    MLP_NORM,
)

QK_NORM = (
    norm(f"{MEGATRON}self_attention.q_layernorm.weight", f"{HF}self_attn.q_norm.weight"),
    norm(f"{MEGATRON}self_attention.k_layernorm.weight", f"{HF}self_attn.k_norm.weight"),
)

QWEN3 = Architecture(
    name="qwen3",
    architectures=("Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration"),
    model_types=("qwen3", "qwen3_vl", "qwen3_vl_text"),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        *QK_NORM,
        MLP_NORM,
        *MLP,
        FINAL_NORM,
        HEAD,
    ),
    marks=(QK_NORM[0].megatron,),
    computes_logits=True,
)
