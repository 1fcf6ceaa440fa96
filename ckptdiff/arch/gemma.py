"""Gemma 1, 2 and 3: Llama with a tied head and zero-centred norms; 2 and 3 add post-norms.

Sources: transformers' modeling_gemma2 and modeling_gemma3 (`1 + weight`); the Megatron names of the
post-norms are those of Megatron-Bridge (gemma2_bridge.py, gemma3_bridge.py). Megatron stores the
norms zero-centred too.
"""

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
from ckptdiff.arch.peculiarity import Peculiarity
from ckptdiff.arch.qwen3 import QK_NORM

_SCALED_EMBEDDING = Peculiarity(
    "Gemma multiplies embeddings by the root of the hidden size, for which Megatron's args have no "
    "field",
    is_shown=False,
)
_NORMS_BEHIND = Peculiarity(
    "There are norms behind attention and MLP, for which Megatron's args have no field"
)

# Norms of the output of attention and of the MLP, before it is added to the residual.
POST_ATTENTION_NORM = norm(
    f"{MEGATRON}self_attention.linear_proj.post_layernorm.weight",
    f"{HF}post_attention_layernorm.weight",
)
POST_MLP_NORM = norm(
    f"{MEGATRON}mlp.linear_fc2.post_layernorm.weight", f"{HF}post_feedforward_layernorm.weight"
)
_PRE_MLP_NORM = norm(f"{MEGATRON}pre_mlp_layernorm.weight", f"{HF}pre_feedforward_layernorm.weight")
_MLP_AND_NORMS = (_PRE_MLP_NORM, *MLP, POST_MLP_NORM)

GEMMA = Architecture(
    name="gemma",
    architectures=("GemmaForCausalLM",),
    model_types=("gemma",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        MLP_NORM,
        *MLP,
        FINAL_NORM,
        HEAD,
    ),
    tied_by_default=True,
    peculiarities=(_SCALED_EMBEDDING,),
    computes_logits=True,
)
GEMMA2 = Architecture(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    model_types=("gemma2",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        POST_ATTENTION_NORM,
        *_MLP_AND_NORMS,
        FINAL_NORM,
        HEAD,
    ),
    marks=(POST_ATTENTION_NORM.megatron, _PRE_MLP_NORM.megatron),
    tied_by_default=True,
    peculiarities=(
        _SCALED_EMBEDDING,
        _NORMS_BEHIND,
    ),
    computes_logits=True,
)
GEMMA3 = Architecture(
    name="gemma3",
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_types=("gemma3_text", "gemma3"),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        *QK_NORM,
        POST_ATTENTION_NORM,
        *_MLP_AND_NORMS,
        FINAL_NORM,
        HEAD,
    ),
    marks=(POST_ATTENTION_NORM.megatron, _PRE_MLP_NORM.megatron, QK_NORM[0].megatron),
    tied_by_default=True,
    peculiarities=(
        _SCALED_EMBEDDING,
        _NORMS_BEHIND,
        Peculiarity(
            "Windowed layers have a RoPE base of their own; Megatron's args hold one base",
            is_shown=False,
        ),
    ),
    computes_logits=True,
)
