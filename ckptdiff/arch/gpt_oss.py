"""gpt-oss: biases everywhere, attention sinks, and experts whose gate and up rows alternate.

Sources: transformers' modeling_gpt_oss (`gate_up[..., ::2]`); Megatron's softmax_offset in
megatron.core.transformer.dot_product_attention; Megatron-Bridge's gpt_oss_bridge.py.
"""

from __future__ import annotations

from ckptdiff.arch.base import Architecture, column, gated, replicated
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MEGATRON,
    MLP_NORM,
)
from ckptdiff.arch.moe import routed_experts, router

_EXPERT = f"{HF}mlp.experts.{{expert}}."
_LOCAL = f"{MEGATRON}mlp.experts.local_experts.{{expert}}."
_EXPERT_BIASES = (
    gated(
        f"{_LOCAL}linear_fc1.bias",
        f"{_EXPERT}gate_proj.bias",
        f"{_EXPERT}up_proj.bias",
        lambda c: c.moe_ffn_hidden_size,
        lambda c: c.moe_mlp_glu_interleave_size,
    ),
    replicated(f"{_LOCAL}linear_fc2.bias", f"{_EXPERT}down_proj.bias", role="fc2"),
)
SINKS = column(
    f"{MEGATRON}self_attention.core_attention.softmax_offset",
    f"{HF}self_attn.sinks",
    lambda c: c.num_attention_heads,
)

GPT_OSS = Architecture(
    name="gpt_oss",
    architectures=("GptOssForCausalLM",),
    model_types=("gpt_oss",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        *ATTENTION_BIASES,
        SINKS,
        MLP_NORM,
        router("mlp.router.weight"),
        replicated(f"{MEGATRON}mlp.router.bias", f"{HF}mlp.router.bias", role="router"),
        *routed_experts("mlp.experts.{expert}.", "gate_proj", "up_proj", "down_proj"),
        *_EXPERT_BIASES,
        FINAL_NORM,
        HEAD,
    ),
    marks=(SINKS.megatron,),
    computes_logits=True,
    fused=(
        *(
            Fused(
                f"{HF}mlp.experts.gate_up_proj{tail}",
                (f"{_EXPERT}gate_proj.{p}", f"{_EXPERT}up_proj.{p}"),
                transposed=True,
                alternating=True,
                on_disk=True,
            )
            for tail, p in (("", "weight"), ("_bias", "bias"))
        ),
        *(
            Fused(
                f"{HF}mlp.experts.down_proj{tail}",
                (f"{_EXPERT}down_proj.{p}",),
                transposed=True,
                on_disk=True,
            )
            for tail, p in (("", "weight"), ("_bias", "bias"))
        ),
    ),
)
