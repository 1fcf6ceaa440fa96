"""Small Hugging Face folders of several families, each tensor written by its name.

The names and shapes are those of transformers' classes, put down by hand: no rule is asked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HIDDEN, FFN, HEADS, GROUPS, HEAD, LAYERS, VOCABULARY = 32, 48, 4, 2, 8, 2, 64
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HEAD,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "nemotron": "NemotronForCausalLM",
}
QKV = {"q": HEADS * HEAD, "k": GROUPS * HEAD, "v": GROUPS * HEAD}
MLP = {"gate_proj": (FFN, HIDDEN), "up_proj": (FFN, HIDDEN), "down_proj": (HIDDEN, FFN)}


def write_model(
    folder: Path, family: str, *, biases: tuple[str, ...] = (), **config: Any
) -> dict[str, Tensor]:
    """Write a folder and return its tensors, with biases of `qkv`, `output` and `mlp` as given."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    norms = ["model.norm"]
    for layer in range(LAYERS):
        front = f"model.layers.{layer}."
        norms += [f"{front}input_layernorm", f"{front}post_attention_layernorm"]
        linear = {f"self_attn.{x}_proj": (rows, HIDDEN) for x, rows in QKV.items()}
        linear["self_attn.o_proj"] = (HIDDEN, HEADS * HEAD)
        linear |= {
            f"mlp.{name}": shape
            for name, shape in MLP.items()
            if family != "nemotron" or name != "gate_proj"
        }
        for name, shape in linear.items():
            shapes[f"{front}{name}.weight"] = shape
            part = "mlp" if name.startswith("mlp.") else "output" if "o_proj" in name else "qkv"
            if part in biases:
                shapes[f"{front}{name}.bias"] = shape[:1]
        if family == "qwen3":
            shapes |= {f"{front}self_attn.{x}_norm.weight": (HEAD,) for x in "qk"}
    for name in norms:
        shapes[f"{name}.weight"] = (HIDDEN,)
        if family == "nemotron":
            shapes[f"{name}.bias"] = (HIDDEN,)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 + (1.0 if "norm.w" in name else 0.0)
        for name, shape in shapes.items()
    }
    write_folder(
        folder,
        {"architectures": [CLASSES[family]], "model_type": family, **SIZES, **config},
        tensors,
    )
    return tensors


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
