"""Nemotron: LayerNorm with biases, kept zero-centred on both sides, and an MLP without a gate."""

from __future__ import annotations

from ckptdiff.arch.base import Architecture, column, norm
from ckptdiff.arch.llama import ATTENTION, EMBEDDING, HEAD, HF, MEGATRON, MLP

NEMOTRON = Architecture(
    name="nemotron",
    architectures=("NemotronForCausalLM",),
    model_types=("nemotron",),
    mappings=(
        EMBEDDING,
        *(
            norm(f"{MEGATRON}input_layernorm.{p}", f"{HF}input_layernorm.{p}")
            for p in ("weight", "bias")
        ),
        *ATTENTION,
        *(
            norm(f"{MEGATRON}pre_mlp_layernorm.{p}", f"{HF}post_attention_layernorm.{p}")
            for p in ("weight", "bias")
        ),
        column(
            f"{MEGATRON}mlp.linear_fc1.weight",
            f"{HF}mlp.up_proj.weight",
            lambda c: c.ffn_hidden_size,
            role="fc1",
        ),
        MLP[1],
        *(norm(f"decoder.final_layernorm.{p}", f"model.norm.{p}") for p in ("weight", "bias")),
        HEAD,
    ),
    marks=("decoder.final_layernorm.bias",),
)
