"""A tiny Qwen3-MoE of Hugging Face, written without the code under test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_hidden_layers": 2,
    "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 48, "moe_intermediate_size": 24, "num_experts": 4, "vocab_size": 256,
    "num_experts_per_tok": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e6,
    "tie_word_embeddings": False, "torch_dtype": "float32", "max_position_embeddings": 64,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip
LAYER = {
    "input_layernorm": (32,), "post_attention_layernorm": (32,), "self_attn.q_proj": (64, 32),
    "self_attn.k_proj": (32, 32), "self_attn.v_proj": (32, 32), "self_attn.o_proj": (32, 64),
    "self_attn.q_norm": (16,), "self_attn.k_norm": (16,), "mlp.gate": (4, 32),
}  # fmt: skip
EXPERT = {"gate_proj": (24, 32), "up_proj": (24, 32), "down_proj": (32, 24)}


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (256, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (256, 32),
    }
    for i in range(2):
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in LAYER.items()}
        found |= {
            f"model.layers.{i}.mlp.experts.{e}.{name}.weight": shape
            for e in range(4)
            for name, shape in EXPERT.items()
        }
    return found


def write_qwen3_moe(folder: Path, **changed: tuple[int, ...]) -> dict[str, Tensor]:
    """Write the model as a folder and return its weights; `changed` are other shapes by name."""
    generator = torch.Generator().manual_seed(0)
    sizes = {**shapes(), **changed}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in sizes.items()}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return weights
