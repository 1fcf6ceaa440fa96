"""Llama 2 and 3: the rules that most other families reuse."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, gated, norm, qkv, replicated, row, vocab

HF = "model.layers.{layer}."
MEGATRON = "decoder.layers.{layer}."

EMBEDDING = vocab("embedding.word_embeddings.weight", "model.embed_tokens.weight", "embedding")
HEAD = vocab("output_layer.weight", "lm_head.weight", "head")
FINAL_NORM = norm("decoder.final_layernorm.weight", "model.norm.weight")

INPUT_NORM = norm(f"{MEGATRON}input_layernorm.weight", f"{HF}input_layernorm.weight")
ATTENTION = (
    qkv(
        f"{MEGATRON}self_attention.linear_qkv.weight",
        f"{HF}self_attn.q_proj.weight",
        f"{HF}self_attn.k_proj.weight",
        f"{HF}self_attn.v_proj.weight",
    ),
    row(
        f"{MEGATRON}self_attention.linear_proj.weight",
        f"{HF}self_attn.o_proj.weight",
        lambda c: c.num_attention_heads * c.kv_channels,
        role="proj",
    ),
)
MLP_NORM = norm(f"{MEGATRON}pre_mlp_layernorm.weight", f"{HF}post_attention_layernorm.weight")
MLP = (
    gated(
        f"{MEGATRON}mlp.linear_fc1.weight",
        f"{HF}mlp.gate_proj.weight",
        f"{HF}mlp.up_proj.weight",
        lambda c: c.ffn_hidden_size,
    ),
    row(
        f"{MEGATRON}mlp.linear_fc2.weight",
        f"{HF}mlp.down_proj.weight",
        lambda c: c.ffn_hidden_size,
        role="fc2",
    ),
)
QKV_BIAS = qkv(
    f"{MEGATRON}self_attention.linear_qkv.bias",
    f"{HF}self_attn.q_proj.bias",
    f"{HF}self_attn.k_proj.bias",
    f"{HF}self_attn.v_proj.bias",
)
# `attention_bias` and `mlp_bias` of config.json; a few Llama derivatives set them.
OPTIONAL_QKV_BIAS = replace(QKV_BIAS, promised=lambda c: c.qkv_bias)
_MLP_BIASES = (
    gated(
        f"{MEGATRON}mlp.linear_fc1.bias",
        f"{HF}mlp.gate_proj.bias",
        f"{HF}mlp.up_proj.bias",
        lambda c: c.ffn_hidden_size,
    ),
    replicated(f"{MEGATRON}mlp.linear_fc2.bias", f"{HF}mlp.down_proj.bias", role="fc2"),
)
PROJ_BIAS = replace(
    replicated(
        f"{MEGATRON}self_attention.linear_proj.bias", f"{HF}self_attn.o_proj.bias", role="proj"
    ),
    promised=lambda c: c.proj_bias,
)
ATTENTION_BIASES = (OPTIONAL_QKV_BIAS, PROJ_BIAS)
MLP_BIASES = tuple(replace(rule, promised=lambda c: c.mlp_bias) for rule in _MLP_BIASES)

LLAMA = Architecture(
    name="llama",
    architectures=("LlamaForCausalLM",),
    model_types=("llama",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        MLP_NORM,
        *MLP,
        *ATTENTION_BIASES,
        *MLP_BIASES,
        FINAL_NORM,
        HEAD,
    ),
    computes_logits=True,
)
