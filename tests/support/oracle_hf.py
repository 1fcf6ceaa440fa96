"""An independent writer of Hugging Face folders, with the real libraries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Family = Literal["llama", "mistral", "qwen2", "qwen3", "mixtral"]

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def make_hf(
    folder: Path,
    family: Family = "llama",
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    groups: int = 2,
    head_dim: int = 8,
    ffn: int = 48,
    vocab: int = 61,
    experts: int = 4,
    tied: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shards: int = 2,
    max_shard_size: int | None = None,
    kind: Literal["safetensors", "bin"] = "safetensors",
    single: bool = False,
    transformers: Literal[4, 5] = 4,
    rope_scaling: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Write a folder as transformers does and return its weights; `LLAMA3_ROPE` makes it Llama 3.

    `tied` is the family's habit if not given. `max_shard_size`, in bytes, goes before `shards`;
    `single` writes one file and no index.
    """
    if tied is None:
        tied = family in ("qwen2", "qwen3")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "max_position_embeddings": 8192,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": groups,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "transformers_version": "4.51.3" if transformers == 4 else "5.23.0",
        "vocab_size": vocab,
    }
    if family != "qwen2":
        config["head_dim"] = head_dim
    if family == "mistral":
        config["sliding_window"] = 128
    if family == "mixtral":
        config |= {"num_local_experts": experts, "num_experts_per_tok": 2, "sliding_window": None}
    theta = 500000.0 if rope_scaling else 10000.0 if family == "llama" else 1000000.0
    name_of_dtype = str(dtype).removeprefix("torch.")
    if transformers == 4:
        config |= {"torch_dtype": name_of_dtype, "rope_theta": theta, "rope_scaling": rope_scaling}
    else:
        rope = {"rope_theta": theta, **(rope_scaling or {"rope_type": "default"})}
        config |= {"dtype": name_of_dtype, "rope_parameters": rope}
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def add(name: str, *shape: int, around: float = 0.0) -> None:
        noise = torch.randn(shape, generator=generator) * 0.1
        weights[name] = (around + noise).to(dtype)

    add("model.embed_tokens.weight", vocab, hidden)
    for layer in (f"model.layers.{i}." for i in range(layers)):
        add(layer + "input_layernorm.weight", hidden, around=1.0)
        for x, out in (("q", heads), ("k", groups), ("v", groups)):
            add(f"{layer}self_attn.{x}_proj.weight", out * head_dim, hidden)
            if family == "qwen2":
                add(f"{layer}self_attn.{x}_proj.bias", out * head_dim)
            if family == "qwen3" and x != "v":
                add(f"{layer}self_attn.{x}_norm.weight", head_dim, around=1.0)
        add(layer + "self_attn.o_proj.weight", hidden, heads * head_dim)
        add(layer + "post_attention_layernorm.weight", hidden, around=1.0)
        if family == "mixtral":
            add(layer + "block_sparse_moe.gate.weight", experts, hidden)
            for expert in (f"{layer}block_sparse_moe.experts.{e}." for e in range(experts)):
                add(expert + "w1.weight", ffn, hidden)
                add(expert + "w3.weight", ffn, hidden)
                add(expert + "w2.weight", hidden, ffn)
            continue
        add(layer + "mlp.gate_proj.weight", ffn, hidden)
        add(layer + "mlp.up_proj.weight", ffn, hidden)
        add(layer + "mlp.down_proj.weight", hidden, ffn)
    add("model.norm.weight", hidden, around=1.0)
    if not tied:
        add("lm_head.weight", vocab, hidden)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    total = sum(w.nbytes for w in weights.values())
    limit = total if single else max_shard_size or total // shards + 1
    write_weights(folder, split(weights, limit), kind=kind, index=not single)
    return weights


def split(weights: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Cut the weights, in order, into files of at most `limit` bytes where one tensor fits."""
    files: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if files[-1] and size + tensor.nbytes > limit:
            files.append({})
            size = 0
        files[-1][name] = tensor
        size += tensor.nbytes
    return files


def write_weights(
    folder: Path,
    files: list[dict[str, Tensor]],
    *,
    kind: Literal["safetensors", "bin"],
    index: bool,
) -> None:
    """Write one file for each part, and the index that says which tensor is in which."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    where: dict[str, str] = {}
    for number, part in enumerate(files, start=1):
        number_of = f"-{number:05d}-of-{len(files):05d}" if index else ""
        file = folder / f"{stem}{number_of}.{kind}"
        if kind == "safetensors":
            save_file(part, file, metadata={"format": "pt"})
        else:
            torch.save(part, file)
        where |= dict.fromkeys(part, file.name)
    if index:
        total = sum(tensor.nbytes for part in files for tensor in part.values())
        document = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(document, indent=2) + "\n")
