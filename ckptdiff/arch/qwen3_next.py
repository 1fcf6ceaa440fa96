"""Qwen3-Next and Qwen3.5: gated DeltaNet layers, and attention with an output gate.

Megatron keeps a rank's share of q, k, v, z (the gate), beta and alpha one after the other. Sources:
megatron.core.ssm.gated_delta_net and SelfAttention's split with attention_output_gate;
transformers' modeling_qwen3_next (per key head q, k, v, z) and modeling_qwen3_5 (tensors apart);
Megatron-Bridge's qwen3_next_bridge.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Architecture, Slice, blocks, column, gated_qkv, norm, row
from ckptdiff.arch.fused import Fused
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
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS, shared_experts
from ckptdiff.arch.qwen2_moe import SHARED_GATE
from ckptdiff.arch.qwen3 import QK_NORM

if TYPE_CHECKING:
    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.config.model import ModelConfig

_NET = f"{MEGATRON}self_attention."
_HF_NET = f"{HF}linear_attn."


def _lengths(c: ModelConfig) -> tuple[int, int]:
    """Return the rows of all keys, and of all values."""
    return (
        c.linear_num_key_heads * c.linear_key_head_dim,
        c.linear_num_value_heads * c.linear_value_head_dim,
    )


def _by_key_head(c: ModelConfig) -> list[list[Slice]]:
    """q, k, v, z, then beta, alpha, gathered from tensors that keep them key head by key head."""
    each = c.linear_num_value_heads // max(1, c.linear_num_key_heads)
    k, v = c.linear_key_head_dim, each * c.linear_value_head_dim
    parts = [
        *((0, start, size, 2 * k + 2 * v) for start, size in _ends(k, k, v, v)),
        *((1, start, size, 2 * each) for start, size in _ends(each, each)),
    ]
    return [
        [
            Slice(source, head * step + start, head * step + start + size)
            for head in range(c.linear_num_key_heads)
        ]
        for source, start, size, step in parts
    ]


def _ends(*sizes: int) -> list[tuple[int, int]]:
    """Return where each of some runs starts, and its size."""
    return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


def _apart(c: ModelConfig) -> list[list[Slice]]:
    """q, k and v out of one tensor; z, beta and alpha have tensors of their own."""
    _, v = _lengths(c)
    heads = c.linear_num_value_heads
    rest = [[Slice(source, 0, size)] for source, size in ((1, v), (2, heads), (3, heads))]
    return [*_convolved(c), *rest]


def _convolved(c: ModelConfig) -> list[list[Slice]]:
    k, v = _lengths(c)
    return [[Slice(0, start, start + size)] for start, size in _ends(k, k, v)]


def _net(in_proj: ParamMapping) -> tuple[ParamMapping, ...]:
    """A gated DeltaNet layer."""
    return (
        in_proj,
        blocks(f"{_NET}conv1d.weight", (f"{_HF_NET}conv1d.weight",), _convolved),
        *(
            column(f"{_NET}{name}", f"{_HF_NET}{name}", lambda c: c.linear_num_value_heads)
            for name in ("A_log", "dt_bias")
        ),
        replace(norm(f"{_NET}out_norm.weight", f"{_HF_NET}norm.weight"), zero_centred=True),
        row(f"{_NET}out_proj.weight", f"{_HF_NET}out_proj.weight", lambda c: _lengths(c)[1]),
    )


_IN_PROJ = f"{_NET}in_proj.weight"
_GATED_ATTENTION = (
    gated_qkv(ATTENTION[0].megatron, *ATTENTION[0].hf),
    ATTENTION[1],
    *QK_NORM,
)
_EXPERTS = (*QWEN_EXPERTS, *shared_experts("mlp.shared_expert."), SHARED_GATE)
_NEXT = _net(
    blocks(
        _IN_PROJ,
        (f"{_HF_NET}in_proj_qkvz.weight", f"{_HF_NET}in_proj_ba.weight"),
        _by_key_head,
    )
)
_NET_3_5 = _net(
    blocks(_IN_PROJ, tuple(f"{_HF_NET}in_proj_{x}.weight" for x in ("qkv", "z", "b", "a")), _apart)
)


def _predictions(*layer: ParamMapping) -> tuple[ParamMapping, ...]:
    """Multi-token prediction, under names of its own that transformers leaves out."""
    return (
        norm("mtp.layers.{mtp}.enorm.weight", "mtp.pre_fc_norm_embedding.weight"),
        norm("mtp.layers.{mtp}.hnorm.weight", "mtp.pre_fc_norm_hidden.weight"),
        column(
            "mtp.layers.{mtp}.eh_proj.weight",
            "mtp.fc.weight",
            lambda c: c.hidden_size,
            role="eh_proj",
        ),
        *(
            replace(
                rule,
                megatron=rule.megatron.replace(MEGATRON, "mtp.layers.{mtp}.transformer_layer."),
                hf=tuple(hf.replace(HF, "mtp.layers.{mtp}.") for hf in rule.hf),
            )
            for rule in layer
        ),
        norm("mtp.layers.{mtp}.final_layernorm.weight", "mtp.norm.weight"),
    )


def _family(
    name: str, classes: tuple[str, ...], types: tuple[str, ...], *rules: ParamMapping
) -> Architecture:
    """`rules`: a DeltaNet layer and the MLP."""
    mlp = tuple(rule for rule in rules if ".mlp." in rule.megatron)
    layer = (INPUT_NORM, *_GATED_ATTENTION, MLP_NORM, *mlp)
    net = rules[: len(rules) - len(mlp)]
    return Architecture(
        name=name,
        architectures=classes,
        model_types=types,
        mappings=(
            EMBEDDING,
            INPUT_NORM,
            *net,
            *layer[1:],
            FINAL_NORM,
            HEAD,
            *_predictions(*layer),
        ),
        marks=(_IN_PROJ,),
        fused=(
            *FUSED_EXPERTS,
            *(
                Fused(
                    fused.hf.replace(HF, "mtp.layers.{mtp}."),
                    tuple(part.replace(HF, "mtp.layers.{mtp}.") for part in fused.parts),
                )
                for fused in FUSED_EXPERTS
            ),
        ),
    )


QWEN3_NEXT = _family("qwen3_next", ("Qwen3NextForCausalLM",), ("qwen3_next",), *_NEXT, *_EXPERTS)
QWEN3_5 = _family(
    "qwen3_5",
    ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    ("qwen3_5", "qwen3_5_text"),
    *_NET_3_5,
    *MLP,
)
QWEN3_5_MOE = _family(
    "qwen3_5_moe",
    ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    *_NET_3_5,
    *_EXPERTS,
)
