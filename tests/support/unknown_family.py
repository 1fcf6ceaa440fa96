"""A mixture of experts of a family without rules, as its Hugging Face folder and Megatron files.

The layout is that of megatron-core's SelfAttention (per query group: its queries, its key, its
value) and of a gated MLP (gate above up), written out here with torch alone.
"""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import torch

from tests.support.pairs import write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Tensors = dict[str, Tensor]

LAYERS, EXPERTS, HEADS, GROUPS, HEAD, HIDDEN, FFN, VOCABULARY = 3, 4, 4, 2, 8, 16, 12, 32


def tensors() -> Tensors:
    """Return the model by Hugging Face names, in float32."""
    generator = torch.Generator().manual_seed(5)

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = {
        "model.embed_tokens.weight": new(VOCABULARY, HIDDEN),
        "model.norm.weight": new(HIDDEN),
        "lm_head.weight": new(VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        h = f"model.layers.{layer}."
        found |= {
            f"{h}input_layernorm.weight": new(HIDDEN),
            f"{h}post_attention_layernorm.weight": new(HIDDEN),
            f"{h}self_attn.q_proj.weight": new(HEADS * HEAD, HIDDEN),
            f"{h}self_attn.k_proj.weight": new(GROUPS * HEAD, HIDDEN),
            f"{h}self_attn.v_proj.weight": new(GROUPS * HEAD, HIDDEN),
            f"{h}self_attn.o_proj.weight": new(HIDDEN, HEADS * HEAD),
            f"{h}self_attn.q_norm.weight": new(HEADS * HEAD),  # over all heads at once
            f"{h}self_attn.indexer.wq_b.weight": new(HIDDEN, HIDDEN),
            f"{h}block_sparse_moe.gate.weight": new(EXPERTS, HIDDEN),
            f"{h}block_sparse_moe.e_score_correction_bias": new(EXPERTS),
        }
        for expert in range(EXPERTS):
            e = f"{h}block_sparse_moe.experts.{expert}."
            found |= {
                f"{e}w1.weight": new(FFN, HIDDEN),
                f"{e}w2.weight": new(HIDDEN, FFN),
                f"{e}w3.weight": new(FFN, HIDDEN),
            }
    return found


def write_huggingface(folder: Path, found: Tensors) -> Path:
    write_plain(folder, found)
    config = {
        "model_type": "nobody-knows",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": HEAD,
        "num_local_experts": EXPERTS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rank_tensors(hf: Tensors, tp: int, rank: int) -> Tensors:
    """Return what one tensor-parallel rank holds, by Megatron's names."""

    def share(name: str, dim: int = 0) -> Tensor:
        return hf[name].chunk(tp, dim)[rank].clone()

    found = {
        "embedding.word_embeddings.weight": share("model.embed_tokens.weight"),
        "decoder.final_layernorm.weight": hf["model.norm.weight"].clone(),
        "output_layer.weight": share("lm_head.weight"),
    }
    for layer in range(LAYERS):
        h, m = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        q, k, v = (hf[f"{h}self_attn.{x}_proj.weight"].chunk(GROUPS) for x in "qkv")
        groups = [torch.cat([q[g], k[g], v[g]]) for g in range(GROUPS)]
        found |= {
            f"{m}input_layernorm.weight": hf[f"{h}input_layernorm.weight"].clone(),
            f"{m}pre_mlp_layernorm.weight": hf[f"{h}post_attention_layernorm.weight"].clone(),
            f"{m}self_attention.linear_qkv.weight": torch.cat(groups).chunk(tp)[rank].clone(),
            f"{m}self_attention.linear_proj.weight": share(f"{h}self_attn.o_proj.weight", 1),
            f"{m}self_attention.q_layernorm.weight": share(f"{h}self_attn.q_norm.weight"),
            f"{m}self_attention.indexer.linear_wq_b.weight": hf[
                f"{h}self_attn.indexer.wq_b.weight"
            ].clone(),
            f"{m}mlp.router.weight": hf[f"{h}block_sparse_moe.gate.weight"].clone(),
            f"{m}mlp.router.expert_bias": hf[
                f"{h}block_sparse_moe.e_score_correction_bias"
            ].clone(),
        }
        for expert in range(EXPERTS):
            e = f"{h}block_sparse_moe.experts.{expert}."
            local = f"{m}mlp.experts.local_experts.{expert}."
            found[f"{local}linear_fc1.weight"] = torch.cat(
                [share(f"{e}w1.weight"), share(f"{e}w3.weight")]
            )
            found[f"{local}linear_fc2.weight"] = share(f"{e}w2.weight", 1)
    return found


def write_megatron(
    folder: Path, hf: Tensors, *, tp: int, change: Callable[[Tensors], None] | None = None
) -> Path:
    """Write Megatron's `torch` format; `change` is called with each rank's tensors."""
    args: Any = Namespace(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        moe_ffn_hidden_size=FFN,
        num_experts=EXPERTS,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        group_query_attention=True,
        kv_channels=HEAD,
        swiglu=True,
        untie_embeddings_and_output_weights=True,
        padded_vocab_size=VOCABULARY,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=1,
        expert_model_parallel_size=1,
    )
    for rank in range(tp):
        model = rank_tensors(hf, tp, rank)
        if change is not None:
            change(model)
        file = folder / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": model}, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder
