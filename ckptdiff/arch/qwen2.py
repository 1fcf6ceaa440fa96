"""Qwen2 and Qwen2.5: Llama with a bias on the query, key and value projections."""

from __future__ import annotations

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.llama import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    MLP,
    MLP_NORM,
    QKV_BIAS,
)

QWEN2 = Architecture(
    name="qwen2",
    architectures=(
        "Qwen2ForCausalLM",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
    ),
    model_types=("qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
    mappings=(EMBEDDING, INPUT_NORM, *ATTENTION, QKV_BIAS, MLP_NORM, *MLP, FINAL_NORM, HEAD),
    marks=(QKV_BIAS.megatron,),
    computes_logits=True,
)
