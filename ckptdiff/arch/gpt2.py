"""GPT-2: LayerNorm and biases everywhere, learned positions, and Conv1D's transposed weights."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture, column, fused_qkv, norm, replicated, row, vocab
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
        replicated(
            "embedding.position_embeddings.weight", "transformer.wpe.weight", role="positions"
        ),
        *(
            norm(f"{MEGATRON}{name}.{p}", f"{_HF}{hf}.{p}")
            for name, hf in _NORMS
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
                role="proj",
            ),
            transposed=True,
        ),
        replicated(
            f"{MEGATRON}self_attention.linear_proj.bias", f"{_HF}attn.c_proj.bias", role="proj"
        ),
        replace(
            column(
                f"{MEGATRON}mlp.linear_fc1.weight",
                f"{_HF}mlp.c_fc.weight",
                lambda c: c.ffn_hidden_size,
                role="fc1",
            ),
            transposed=True,
        ),
        column(
            f"{MEGATRON}mlp.linear_fc1.bias",
            f"{_HF}mlp.c_fc.bias",
            lambda c: c.ffn_hidden_size,
            role="fc1",
        ),
        replace(
            row(
                f"{MEGATRON}mlp.linear_fc2.weight",
                f"{_HF}mlp.c_proj.weight",
                lambda c: c.ffn_hidden_size,
                role="fc2",
            ),
            transposed=True,
        ),
        replicated(f"{MEGATRON}mlp.linear_fc2.bias", f"{_HF}mlp.c_proj.bias", role="fc2"),
        *(
            norm(f"decoder.final_layernorm.{p}", f"transformer.ln_f.{p}")
            for p in ("weight", "bias")
        ),
        vocab("output_layer.weight", "lm_head.weight", "head"),
    ),
    marks=("embedding.position_embeddings.weight",),
    tied_by_default=True,
)
