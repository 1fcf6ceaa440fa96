"""Nemotron: zero-centred LayerNorm with biases in both programs, and an MLP without a gate."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, ParamMapping, column, norm
from ckptdiff.arch.llama import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    HEAD,
    HF,
    MEGATRON,
    MLP,
    MLP_BIASES,
)


def ungated(hf: str) -> tuple[ParamMapping, ParamMapping]:
    """Return the rules of an MLP's first layer without a gate, weight and bias; `hf` names it."""
    weight, bias = (
        column(
            f"{MEGATRON}mlp.linear_fc1.{p}", f"{hf}.{p}", lambda c: c.ffn_hidden_size, role="fc1"
        )
        for p in ("weight", "bias")
    )
    return weight, replace(bias, promised=lambda c: c.mlp_bias)


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
        *ATTENTION_BIASES,
        *(
            norm(f"{MEGATRON}pre_mlp_layernorm.{p}", f"{HF}post_attention_layernorm.{p}")
            for p in ("weight", "bias")
        ),
        *ungated(f"{HF}mlp.up_proj"),
        MLP[1],
        MLP_BIASES[1],
        *(norm(f"decoder.final_layernorm.{p}", f"model.norm.{p}") for p in ("weight", "bias")),
        HEAD,
    ),
    marks=("decoder.final_layernorm.bias",),
    computes_logits=True,
)
