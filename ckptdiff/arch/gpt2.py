"""GPT-2: LayerNorm and biases everywhere, learned positions, and Conv1D's transposed weights."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, column, fused_qkv, replicated, row, vocab
from ckptdiff.arch.llama import MEGATRON

_HF = "transformer.h.{layer}."
_NORMS = (
    ("input_layernorm", "ln_1"),
    ("pre_mlp_layernorm", "ln_2"),
)

GPT2 = Architecture(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    model_types=("gpt2",),
    mappings=(
        vocab("embedding.word_embeddings.weight", "transformer.wte.weight", "embedding"),
        replicated("embedding.position_embeddings.weight", "transformer.wpe.weight"),
        *(
            replicated(f"{MEGATRON}{norm}.{p}", f"{_HF}{hf}.{p}")
            for norm, hf in _NORMS
            for p in ("weight", "bias")
        ),
        fused_qkv(
            f"{MEGATRON}self_attention.linear_qkv.weight",
            f"{_HF}attn.c_attn.weight",
            transposed=True,
        ),
        fused_qkv(f"{MEGATRON}self_attention.linear_qkv.bias", f"{_HF}attn.c_attn.bias"),
        replace(
            row(
                f"{MEGATRON}self_attention.linear_proj.weight",
                f"{_HF}attn.c_proj.weight",
                lambda c: c.hidden_size,
            ),
            transposed=True,
        ),
        replicated(f"{MEGATRON}self_attention.linear_proj.bias", f"{_HF}attn.c_proj.bias"),
        replace(
            column(
                f"{MEGATRON}mlp.linear_fc1.weight",
                f"{_HF}mlp.c_fc.weight",
                lambda c: c.ffn_hidden_size,
            ),
            transposed=True,
        ),
        column(
            f"{MEGATRON}mlp.linear_fc1.bias", f"{_HF}mlp.c_fc.bias", lambda c: c.ffn_hidden_size
        ),
        replace(
            row(
                f"{MEGATRON}mlp.linear_fc2.weight",
                f"{_HF}mlp.c_proj.weight",
                lambda c: c.ffn_hidden_size,
            ),
            transposed=True,
        ),
        replicated(f"{MEGATRON}mlp.linear_fc2.bias", f"{_HF}mlp.c_proj.bias"),
        *(
            replicated(f"decoder.final_layernorm.{p}", f"transformer.ln_f.{p}")
            for p in ("weight", "bias")
        ),
        vocab("output_layer.weight", "lm_head.weight", "head"),
    ),
    marks=("embedding.position_embeddings.weight",),
    tied_by_default=True,
)
