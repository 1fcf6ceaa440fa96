"""Qwen3-Next and Qwen3.5: gated DeltaNet layers, and attention with an output gate.

Megatron stores a rank's rows of q, k, v, z (the gate), beta and alpha one after the other. Sources:
megatron.core.ssm.gated_delta_net and SelfAttention's split with attention_output_gate;
transformers' modeling_qwen3_next (q, k, v, z per key head) and modeling_qwen3_5 (several tensors);
Megatron-Bridge's qwen3_next_bridge.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Architecture, Slice, blocks, column, gated_qkv, norm, row
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.hf_class import HfClass
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
    OPTIONAL_QKV_BIAS,
    PROJ_BIAS,
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS, shared_experts
from ckptdiff.arch.qwen2_moe import SHARED_GATE
from ckptdiff.arch.qwen3 import QK_NORM

if TYPE_CHECKING:
    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.config.model import ModelConfig

_NET = f"{MEGATRON}self_attention."
_HF_NET = f"{HF}linear_attn."


def _key_value_rows(c: ModelConfig) -> tuple[int, int]:
    """Return the number of rows of all keys, and of all values."""
    return (
        c.linear_num_key_heads * c.linear_key_head_dim,
        c.linear_num_value_heads * c.linear_value_head_dim,
    )


def _by_key_head(c: ModelConfig) -> list[list[Slice]]:
    """Return the blocks of in_proj, q, k, v, z, beta and alpha, for Qwen3-Next's two tensors.

    Both are ordered by key head: one has q, k, v and z of each, the other beta and alpha.
    """
    values_per_key = c.linear_num_value_heads // max(1, c.linear_num_key_heads)
    k, v = c.linear_key_head_dim, values_per_key * c.linear_value_head_dim
    parts = [
        *((0, start, size, 2 * k + 2 * v) for start, size in _starts_and_sizes(k, k, v, v)),
        *(
            (1, start, size, 2 * values_per_key)
            for start, size in _starts_and_sizes(values_per_key, values_per_key)
        ),
    ]
    return [
        [
            Slice(source, head * step + start, head * step + start + size)
            for head in range(c.linear_num_key_heads)
        ]
        for source, start, size, step in parts
    ]


def _starts_and_sizes(*sizes: int) -> list[tuple[int, int]]:
    """Return (start, size) of consecutive ranges of these sizes."""
    return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


def _by_tensor(c: ModelConfig) -> list[list[Slice]]:
    """Return the blocks of in_proj for Qwen3.5's four tensors: q, k, v in one; z; beta; alpha."""
    _, v = _key_value_rows(c)
    heads = c.linear_num_value_heads
    rest = [[Slice(source, 0, size)] for source, size in ((1, v), (2, heads), (3, heads))]
    return [*_conv_blocks(c), *rest]


def _conv_blocks(c: ModelConfig) -> list[list[Slice]]:
    """Return the blocks of q, k and v in one tensor, which the convolution takes."""
    k, v = _key_value_rows(c)
    return [[Slice(0, start, start + size)] for start, size in _starts_and_sizes(k, k, v)]


def _delta_net(in_proj: ParamMapping) -> tuple[ParamMapping, ...]:
    """Return the rules of a gated DeltaNet layer with this input projection."""
    return (
        in_proj,
        blocks(f"{_NET}conv1d.weight", (f"{_HF_NET}conv1d.weight",), _conv_blocks),
        *(
            column(f"{_NET}{name}", f"{_HF_NET}{name}", lambda c: c.linear_num_value_heads)
            for name in ("A_log", "dt_bias")
        ),
        replace(norm(f"{_NET}out_norm.weight", f"{_HF_NET}norm.weight"), zero_centred=True),
        row(f"{_NET}out_proj.weight", f"{_HF_NET}out_proj.weight", lambda c: _key_value_rows(c)[1]),
    )


_IN_PROJ = f"{_NET}in_proj.weight"
_GATED_ATTENTION = (
    gated_qkv(ATTENTION[0].megatron, *ATTENTION[0].hf),
    ATTENTION[1],
    replace(
        gated_qkv(OPTIONAL_QKV_BIAS.megatron, *OPTIONAL_QKV_BIAS.hf),
        promised=OPTIONAL_QKV_BIAS.promised,
    ),
    PROJ_BIAS,
    *QK_NORM,
)
_EXPERTS = (*QWEN_EXPERTS, *shared_experts("mlp.shared_expert."), SHARED_GATE)
_DELTA_NET_NEXT = _delta_net(
    blocks(
        _IN_PROJ,
        (f"{_HF_NET}in_proj_qkvz.weight", f"{_HF_NET}in_proj_ba.weight"),
        _by_key_head,
    )
)
_DELTA_NET_3_5 = _delta_net(
    blocks(
        _IN_PROJ, tuple(f"{_HF_NET}in_proj_{x}.weight" for x in ("qkv", "z", "b", "a")), _by_tensor
    )
)


def _predictions(*layer: ParamMapping) -> tuple[ParamMapping, ...]:
    """Return the rules of multi-token prediction, whose tensors transformers does not load."""
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
    """Return a family from the rules of its DeltaNet layer and of its MLP."""
    mlp = tuple(rule for rule in rules if ".mlp." in rule.megatron)
    layer = (INPUT_NORM, *_GATED_ATTENTION, MLP_NORM, *mlp)
    net = rules[: len(rules) - len(mlp)]
    return Architecture(
        name=name,
        architectures=classes,
        model_types=types,
        computes_logits=True,
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


QWEN3_NEXT = _family(
    "qwen3_next", ("Qwen3NextForCausalLM",), ("qwen3_next",), *_DELTA_NET_NEXT, *MLP, *_EXPERTS
)
# Their language models have a class and a model type of their own.
QWEN3_5 = replace(
    _family(
        "qwen3_5",
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        ("qwen3_5", "qwen3_5_text"),
        *_DELTA_NET_3_5,
        *MLP,
    ),
    written_class=HfClass("Qwen3_5ForCausalLM", "qwen3_5_text"),
)
QWEN3_5_MOE = replace(
    _family(
        "qwen3_5_moe",
        ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        ("qwen3_5_moe", "qwen3_5_moe_text"),
        *_DELTA_NET_3_5,
        *_EXPERTS,
    ),
    written_class=HfClass("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text"),
)
