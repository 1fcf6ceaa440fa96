"""DeepSeek-V2 and V3: latent attention, shared experts, multi-token prediction.

Kimi-K2, Moonlight and GLM-4.7-Flash have the same tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Architecture, ParamMapping, column, norm, replicated, row
from ckptdiff.arch.hf_class import HfClass
from ckptdiff.arch.llama import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    HF,
    INPUT_NORM,
    MEGATRON,
    MLP,
    MLP_BIASES,
    MLP_NORM,
    PROJ_BIAS,
)
from ckptdiff.arch.moe import FUSED_EXPERTS, QWEN_EXPERTS, shared_experts
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.config.model import ModelConfig

_ATTENTION = "self_attention."


def _compressed(megatron: str, hf: str, lora_rank: str, extra: str | None = None) -> ParamMapping:
    """Return the rule of a projection into the latent space.

    `lora_rank` and `extra` are the config fields whose sum is its number of rows. With Transformer
    Engine every rank holds the whole tensor since Megatron 0.14.
    """

    def rows(c: ModelConfig) -> int:
        if getattr(c, lora_rank) is None:
            raise UnsupportedLayout(
                f"the config has no {lora_rank}, though there is a tensor of it"
            )
        return int(getattr(c, lora_rank) + (getattr(c, extra) if extra else 0))

    rule = column(f"{MEGATRON}{_ATTENTION}{megatron}.weight", f"{HF}self_attn.{hf}.weight", rows)
    return replace(rule, or_replicated=True)


def _compresses_queries(c: ModelConfig) -> bool:
    return c.q_lora_rank is not None


def _has_query_norm(c: ModelConfig) -> bool:
    return c.qk_layernorm and _compresses_queries(c)


_COMPRESSED_QUERIES = (
    _compressed("linear_q_down_proj", "q_a_proj", "q_lora_rank"),
    norm(f"{MEGATRON}{_ATTENTION}q_layernorm.weight", f"{HF}self_attn.q_a_layernorm.weight"),
    column(
        f"{MEGATRON}{_ATTENTION}linear_q_up_proj.weight",
        f"{HF}self_attn.q_b_proj.weight",
        lambda c: c.num_attention_heads * (c.qk_head_dim + c.qk_pos_emb_head_dim),
    ),
)
LATENT_ATTENTION = (
    replace(
        column(
            f"{MEGATRON}{_ATTENTION}linear_q_proj.weight",
            f"{HF}self_attn.q_proj.weight",
            lambda c: c.num_attention_heads * (c.qk_head_dim + c.qk_pos_emb_head_dim),
        ),
        promised=lambda c: c.q_lora_rank is None,
    ),
    *(
        replace(rule, promised=_has_query_norm if rule.role == "norm" else _compresses_queries)
        for rule in _COMPRESSED_QUERIES
    ),
    _compressed("linear_kv_down_proj", "kv_a_proj_with_mqa", "kv_lora_rank", "qk_pos_emb_head_dim"),
    replace(
        norm(f"{MEGATRON}{_ATTENTION}kv_layernorm.weight", f"{HF}self_attn.kv_a_layernorm.weight"),
        promised=lambda c: c.qk_layernorm,
    ),
    column(
        f"{MEGATRON}{_ATTENTION}linear_kv_up_proj.weight",
        f"{HF}self_attn.kv_b_proj.weight",
        lambda c: c.num_attention_heads * (c.qk_head_dim + c.v_head_dim),
    ),
    row(
        f"{MEGATRON}{_ATTENTION}linear_proj.weight",
        f"{HF}self_attn.o_proj.weight",
        lambda c: c.num_attention_heads * c.v_head_dim,
        role="proj",
    ),
)
ROUTER_BIAS = replace(
    replicated(
        f"{MEGATRON}mlp.router.expert_bias", f"{HF}mlp.gate.e_score_correction_bias", role="router"
    ),
    promised=lambda c: c.router_bias,
)
LAYER = (
    INPUT_NORM,
    *LATENT_ATTENTION,
    PROJ_BIAS,
    MLP_NORM,
    *MLP,
    *MLP_BIASES,
    *QWEN_EXPERTS,
    ROUTER_BIAS,
    *shared_experts("mlp.shared_experts."),
)

MTP = "mtp.layers.{mtp}."
MTP_HF = "model.layers.{mtp}."


def predictions(layer: tuple[ParamMapping, ...]) -> tuple[ParamMapping, ...]:
    """Return the rules of multi-token prediction, whose module has a layer like `layer` inside.

    Hugging Face stores module j as layer num_layers + j.
    """
    inner = tuple(
        replace(
            rule,
            megatron=rule.megatron.replace(MEGATRON, f"{MTP}transformer_layer."),
            hf=tuple(hf.replace(HF, MTP_HF) for hf in rule.hf),
        )
        for rule in layer
    )
    return (
        norm(f"{MTP}enorm.weight", f"{MTP_HF}enorm.weight"),
        norm(f"{MTP}hnorm.weight", f"{MTP_HF}hnorm.weight"),
        column(
            f"{MTP}eh_proj.weight",
            f"{MTP_HF}eh_proj.weight",
            lambda c: c.hidden_size,
            role="eh_proj",
        ),
        *inner,
        norm(f"{MTP}final_layernorm.weight", f"{MTP_HF}shared_head.norm.weight"),
    )


SHARED_BY_MTP = (
    (f"{MTP_HF}embed_tokens.weight", "model.embed_tokens.weight"),
    (f"{MTP_HF}shared_head.head.weight", "lm_head.weight"),
)

DEEPSEEK = Architecture(
    name="deepseek",
    architectures=(
        "DeepseekV3ForCausalLM",
        "DeepseekV2ForCausalLM",
        "KimiK2ForCausalLM",
        "Glm4MoeLiteForCausalLM",
    ),
    model_types=("deepseek_v3", "deepseek_v2", "kimi_k2", "glm4_moe_lite"),
    mappings=(EMBEDDING, *LAYER, FINAL_NORM, HEAD, *predictions(LAYER)),
    marks=(f"{MEGATRON}{_ATTENTION}linear_kv_up_proj.weight",),
    shared=SHARED_BY_MTP,
    fused=FUSED_EXPERTS,
    written_class=HfClass(
        "DeepseekV2ForCausalLM", "deepseek_v2", unless=("scoring_func", "sigmoid")
    ),
    computes_logits=True,
)
