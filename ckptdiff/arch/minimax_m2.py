"""MiniMax-M2: Mixtral's experts with DeepSeek's router, and norms over all heads at once.

Each rank holds its heads' part of these norms, as Megatron-Bridge's minimax_m2_bridge.py has it;
ms-swift holds them whole. Sources: these, and transformers' modeling_minimax_m2.
"""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, column
from ckptdiff.arch.deepseek import ROUTER_BIAS
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MEGATRON,
    MLP_NORM,
)
from ckptdiff.arch.mixtral import MIXTRAL, ROUTER
from ckptdiff.arch.moe import routed_experts
from ckptdiff.arch.olmo import WIDE_NORM

_QK_NORM = tuple(
    replace(rule, or_replicated=True)
    for rule in (
        column(
            f"{MEGATRON}self_attention.q_layernorm.weight",
            f"{HF}self_attn.q_norm.weight",
            lambda c: c.num_attention_heads * c.kv_channels,
            role="norm",
        ),
        column(
            f"{MEGATRON}self_attention.k_layernorm.weight",
            f"{HF}self_attn.k_norm.weight",
            lambda c: c.num_query_groups * c.kv_channels,
            role="norm",
        ),
    )
)
_ROUTER_BIAS = f"{HF}block_sparse_moe.e_score_correction_bias"

MINIMAX_M2 = Architecture(
    name="minimax_m2",
    architectures=("MiniMaxM2ForCausalLM",),
    model_types=("minimax_m2",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *_QK_NORM,
        MLP_NORM,
        ROUTER,
        replace(ROUTER_BIAS, hf=(_ROUTER_BIAS,)),
        *routed_experts("block_sparse_moe.experts.{expert}.", "w1", "w3", "w2"),
        FINAL_NORM,
        HEAD,
    ),
    wide_qk_norm=True,
    marks=(_QK_NORM[0].megatron, ROUTER.megatron, ROUTER_BIAS.megatron),
    # As Mixtral's, transformers 5 names and fuses them otherwise in memory.
    fused=(
        *MIXTRAL.fused,
        Fused(f"{HF}mlp.e_score_correction_bias", (_ROUTER_BIAS,)),
    ),
    peculiarities=(WIDE_NORM,),
)
