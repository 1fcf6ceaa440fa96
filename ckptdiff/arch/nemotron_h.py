"""Nemotron-H and Nemotron 3: layers that are each a Mamba mixer, attention, an MLP or experts.

In Hugging Face the norm and the mixer have the same names in every kind of layer. Megatron stores a
rank's rows of z, x, B, C and dt one after the other. Sources: megatron.core.ssm.mamba_mixer
(sharded_state_dict); transformers' modeling_nemotron_h; Megatron-Bridge's nemotron_h_bridge.py.
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
from ckptdiff.arch.nemotron import ungated

if TYPE_CHECKING:
    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.config.model import ModelConfig

_HF = "backbone.layers.{layer}."
_MIXER = f"{_HF}mixer."
_MAMBA = f"{MEGATRON}mixer."
_EXPERT = f"{MEGATRON}mlp.experts.local_experts.{{expert}}."
# Of each kind of layer: Megatron's name of its norm, and a Hugging Face tensor that only it has.
_NORMS = (
    ("norm", "in_proj"),
    ("input_layernorm", "o_proj"),
    ("pre_mlp_layernorm", "up_proj"),
    ("pre_mlp_layernorm", "gate"),
)


def _mamba_blocks(c: ModelConfig, *, convolved: bool) -> list[list[Slice]]:
    """Return the blocks of in_proj: z, x, B, C, dt; if `convolved`, those of conv1d: x, B, C."""
    inner, state = _inner_size(c), c.mamba_num_groups * c.mamba_state_dim
    sizes = [inner, state, state]
    if not convolved:
        sizes = [inner, *sizes, c.mamba_num_heads]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [[Slice(0, start, start + size)] for start, size in zip(starts, sizes, strict=True)]


def _inner_size(c: ModelConfig) -> int:
    return c.mamba_num_heads * c.mamba_head_dim


def _if_others(rule: ParamMapping) -> ParamMapping:
    """Return the rule of a tensor that a layer has if others of its kind do."""
    return replace(rule, promised=lambda _: False)


_CONV = {
    p: blocks(
        f"{_MAMBA}conv1d.{p}",
        (f"{_MIXER}conv1d.{p}",),
        lambda c: _mamba_blocks(c, convolved=True),
    )
    for p in ("weight", "bias")
}

NEMOTRON_H = Architecture(
    name="nemotron_h",
    architectures=("NemotronHForCausalLM",),
    model_types=("nemotron_h",),
    computes_logits=True,
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
            lambda c: _mamba_blocks(c, convolved=False),
        ),
        _CONV["weight"],
        _if_others(_CONV["bias"]),
        *(
            column(f"{_MAMBA}{name}", f"{_MIXER}{name}", lambda c: c.mamba_num_heads)
            for name in ("A_log", "D", "dt_bias")
        ),
        column(f"{_MAMBA}norm.weight", f"{_MIXER}norm.weight", _inner_size, role="norm"),
        row(f"{_MAMBA}out_proj.weight", f"{_MIXER}out_proj.weight", _inner_size),
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
        *ungated(f"{_MIXER}up_proj"),
        row(
            f"{MEGATRON}mlp.linear_fc2.weight",
            f"{_MIXER}down_proj.weight",
            lambda c: c.ffn_hidden_size,
            role="fc2",
        ),
        replace(
            replicated(f"{MEGATRON}mlp.linear_fc2.bias", f"{_MIXER}down_proj.bias", role="fc2"),
            promised=lambda c: c.mlp_bias,
        ),
        replicated(f"{MEGATRON}mlp.router.weight", f"{_MIXER}gate.weight", role="router"),
        _if_others(
            replicated(
                f"{MEGATRON}mlp.router.expert_bias",
                f"{_MIXER}gate.e_score_correction_bias",
                role="router",
            )
        ),
        *(
            _if_others(replicated(f"{MEGATRON}mlp.{name}.{p}", f"{_MIXER}{name}.{p}"))
            for name in ("fc1_latent_proj", "fc2_latent_proj")
            for p in ("weight", "bias")
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
        _if_others(
            column(
                f"{MEGATRON}mlp.shared_experts.linear_fc1.weight",
                f"{_MIXER}shared_experts.up_proj.weight",
                lambda c: c.moe_shared_expert_intermediate_size,
                role="fc1",
            )
        ),
        _if_others(
            row(
                f"{MEGATRON}mlp.shared_experts.linear_fc2.weight",
                f"{_MIXER}shared_experts.down_proj.weight",
                lambda c: c.moe_shared_expert_intermediate_size,
                role="fc2",
            )
        ),
        norm("decoder.final_layernorm.weight", "backbone.norm_f.weight"),
        HEAD,
    ),
    marks=(f"{_MAMBA}in_proj.weight",),
    # How transformers 5 begins the names in memory.
    prefixes=(("model.", "backbone."),),
    fused=tuple(
        Fused(f"{_MIXER}experts.{x}_proj", (f"{_MIXER}experts.{{expert}}.{x}_proj.weight",))
        for x in ("up", "down")
    ),
)
