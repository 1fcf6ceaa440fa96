"""GPT-NeoX and Pythia: LayerNorm, biases, and a fused q, k and v in Megatron's own order of rows.

Source: transformers' modeling_gpt_neox (`view(..., heads, 3 * head size)`, then three chunks).
"""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, column, norm, replicated, row, vocab
from ckptdiff.arch.llama import MEGATRON

_HF = "gpt_neox.layers.{layer}."
_QKV = {
    p: column(
        f"{MEGATRON}self_attention.linear_qkv.{p}",
        f"{_HF}attention.query_key_value.{p}",
        lambda c: 3 * c.num_attention_heads * c.kv_channels,
        role="qkv",
    )
    for p in ("weight", "bias")
}

GPT_NEOX = Architecture(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    model_types=("gpt_neox",),
    mappings=(
        vocab("embedding.word_embeddings.weight", "gpt_neox.embed_in.weight", "embedding"),
        *(
            norm(f"{MEGATRON}{name}.{p}", f"{_HF}{hf}.{p}")
            for name, hf in (
                ("input_layernorm", "input_layernorm"),
                ("pre_mlp_layernorm", "post_attention_layernorm"),
            )
            for p in ("weight", "bias")
        ),
        _QKV["weight"],
        replace(_QKV["bias"], promised=lambda c: c.qkv_bias),
        row(
            f"{MEGATRON}self_attention.linear_proj.weight",
            f"{_HF}attention.dense.weight",
            lambda c: c.num_attention_heads * c.kv_channels,
            role="proj",
        ),
        replace(
            replicated(
                f"{MEGATRON}self_attention.linear_proj.bias",
                f"{_HF}attention.dense.bias",
                role="proj",
            ),
            promised=lambda c: c.proj_bias,
        ),
        *(
            column(
                f"{MEGATRON}mlp.linear_fc1.{p}",
                f"{_HF}mlp.dense_h_to_4h.{p}",
                lambda c: c.ffn_hidden_size,
                role="fc1",
            )
            for p in ("weight", "bias")
        ),
        row(
            f"{MEGATRON}mlp.linear_fc2.weight",
            f"{_HF}mlp.dense_4h_to_h.weight",
            lambda c: c.ffn_hidden_size,
            role="fc2",
        ),
        replicated(f"{MEGATRON}mlp.linear_fc2.bias", f"{_HF}mlp.dense_4h_to_h.bias", role="fc2"),
        *(
            norm(f"decoder.final_layernorm.{p}", f"gpt_neox.final_layer_norm.{p}")
            for p in ("weight", "bias")
        ),
        vocab("output_layer.weight", "embed_out.weight", "head"),
    ),
    marks=("decoder.final_layernorm.bias", f"{MEGATRON}mlp.linear_fc1.bias"),
    computes_logits=True,
    prefixes=(("lm_head.", "embed_out."),),  # how transformers 5 names it in memory
)
