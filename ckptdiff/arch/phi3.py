"""Phi-3 and Phi-4: Llama, with q, k and v in one Hugging Face tensor, and gate and up in another.

Source: transformers' modeling_phi3. In Megatron its layers are Llama's.
"""

from __future__ import annotations

from ckptdiff.arch.base import Architecture, fused_gated, fused_qkv
from ckptdiff.arch.llama import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MLP,
    MLP_NORM,
)

PHI3 = Architecture(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    model_types=("phi3",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        fused_qkv(ATTENTION[0].megatron, f"{HF}self_attn.qkv_proj.weight"),
        ATTENTION[1],
        MLP_NORM,
        fused_gated(MLP[0].megatron, f"{HF}mlp.gate_up_proj.weight", lambda c: c.ffn_hidden_size),
        MLP[1],
        FINAL_NORM,
        HEAD,
    ),
    computes_logits=True,
)
