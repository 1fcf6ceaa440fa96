"""Nemotron-H and Nemotron 3: layers that are each a Mamba mixer, attention, an MLP or experts.

All call their norm and their mixer the same in Hugging Face. Megatron keeps a rank's share of z, x,
B, C and dt one after the other. Sources: megatron.core.ssm.mamba_mixer (sharded_state_dict);
transformers' modeling_nemotron_h; Megatron-Bridge's nemotron_h_bridge.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import (
    Architecture,
    Slice,
    blocks,
    column,
    norm,
    qkv,
    replicated,
    row,
    vocab,
)
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import HEAD, MEGATRON

if TYPE_CHECKING:
    from ckptdiff.config.model import ModelConfig

_HF = "backbone.layers.{layer}."
_MIXER = f"{_HF}mixer."
_MAMBA = f"{MEGATRON}mixer."
_EXPERT = f"{MEGATRON}mlp.experts.local_experts.{{expert}}."
# What tells the kinds of layers apart, and what Megatron calls the norm in front of each.
_NORMS = (
    ("norm", "in_proj"),
    ("input_layernorm", "o_proj"),
    ("pre_mlp_layernorm", "up_proj"),
    ("pre_mlp_layernorm", "gate"),
)


def _runs(c: ModelConfig, *, convolved: bool) -> list[list[Slice]]:
    inner, state = _inner(c), c.mamba_num_groups * c.mamba_state_dim
    sizes = [inner, state, state]
    if not convolved:
        sizes = [inner, *sizes, c.mamba_num_heads]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [[Slice(0, start, start + size)] for start, size in zip(starts, sizes, strict=True)]


def _inner(c: ModelConfig) -> int:
    return c.mamba_num_heads * c.mamba_head_dim


NEMOTRON_H = Architecture(
    name="nemotron_h",
    architectures=("NemotronHForCausalLM",),
    model_types=("nemotron_h",),
    mappings=(
        vocab("embedding.word_embeddings.weight", "backbone.embeddings.weight", "embedding"),
        *(
            replace(
                norm(f"{MEGATRON}{name}.weight", f"{_HF}norm.weight"),
                beside=f"{_MIXER}{kind}.weight",
            )
            for name, kind in _NORMS
        ),
        blocks(
            f"{_MAMBA}in_proj.weight",
            (f"{_MIXER}in_proj.weight",),
            lambda c: _runs(c, convolved=False),
        ),
        *(
            blocks(
                f"{_MAMBA}conv1d.{p}",
                (f"{_MIXER}conv1d.{p}",),
                lambda c: _runs(c, convolved=True),
            )
            for p in ("weight", "bias")
        ),
        *(
            column(f"{_MAMBA}{name}", f"{_MIXER}{name}", lambda c: c.mamba_num_heads)
            for name in ("A_log", "D", "dt_bias")
        ),
        column(f"{_MAMBA}norm.weight", f"{_MIXER}norm.weight", _inner, role="norm"),
        row(f"{_MAMBA}out_proj.weight", f"{_MIXER}out_proj.weight", _inner),
        qkv(
            f"{MEGATRON}self_attention.linear_qkv.weight",
            *(f"{_MIXER}{x}_proj.weight" for x in "qkv"),
        ),
        row(
            f"{MEGATRON}self_attention.linear_proj.weight",
            f"{_MIXER}o_proj.weight",
            lambda c: c.num_attention_heads * c.kv_channels,
            role="proj",
        ),
        column(
            f"{MEGATRON}mlp.linear_fc1.weight",
            f"{_MIXER}up_proj.weight",
            lambda c: c.ffn_hidden_size,
            role="fc1",
        ),
        row(
            f"{MEGATRON}mlp.linear_fc2.weight",
            f"{_MIXER}down_proj.weight",
            lambda c: c.ffn_hidden_size,
            role="fc2",
        ),
        replicated(f"{MEGATRON}mlp.router.weight", f"{_MIXER}gate.weight", role="router"),
        replicated(
            f"{MEGATRON}mlp.router.expert_bias",
            f"{_MIXER}gate.e_score_correction_bias",
            role="router",
        ),
        *(
            replicated(f"{MEGATRON}mlp.{name}.weight", f"{_MIXER}{name}.weight")
            for name in ("fc1_latent_proj", "fc2_latent_proj")
        ),
        column(
            f"{_EXPERT}linear_fc1.weight",
            f"{_MIXER}experts.{{expert}}.up_proj.weight",
            lambda c: c.moe_ffn_hidden_size,
            role="fc1",
        ),
        row(
            f"{_EXPERT}linear_fc2.weight",
            f"{_MIXER}experts.{{expert}}.down_proj.weight",
            lambda c: c.moe_ffn_hidden_size,
            role="fc2",
        ),
        column(
            f"{MEGATRON}mlp.shared_experts.linear_fc1.weight",
            f"{_MIXER}shared_experts.up_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
            role="fc1",
        ),
        row(
            f"{MEGATRON}mlp.shared_experts.linear_fc2.weight",
            f"{_MIXER}shared_experts.down_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
            role="fc2",
        ),
        norm("decoder.final_layernorm.weight", "backbone.norm_f.weight"),
        HEAD,
    ),
    marks=(f"{_MAMBA}in_proj.weight",),
    # transformers 5 in memory.
    prefixes=(("model.", "backbone."),),
    fused=tuple(
        Fused(f"{_MIXER}experts.{x}_proj", (f"{_MIXER}experts.{{expert}}.{x}_proj.weight",))
        for x in ("up", "down")
    ),
)
