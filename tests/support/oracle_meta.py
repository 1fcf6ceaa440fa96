"""An independent writer of Meta's own format: plain loops, torch, nothing of ckptdiff."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# The dimension along which Meta's model-parallel layers are cut (ColumnParallelLinear: rows,
# RowParallelLinear: columns); norms are whole on every rank.
CUT = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0}
NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Return rows in Meta's order: the two halves of each head, row by row in turn."""
    rows = []
    for start in range(0, len(weight), head_dim):
        for i in range(head_dim // 2):
            rows += [weight[start + i], weight[start + head_dim // 2 + i]]
    return torch.stack(rows)


def meta_weights(weights: dict[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """Return Hugging Face's tensors under Meta's names, whole."""
    found = {}
    for name, tensor in weights.items():
        parts = name.removesuffix(".weight").split(".")
        if parts[:2] == ["model", "layers"]:
            called = NAMES[".".join(parts[3:])]
            if called in ("attention.wq", "attention.wk"):
                tensor = interleaved(tensor, head_dim)
            found[f"layers.{parts[2]}.{called}.weight"] = tensor
        else:
            outer = {"embed_tokens": "tok_embeddings", "norm": "norm", "lm_head": "output"}
            found[f"{outer[parts[-1]]}.weight"] = tensor
    return found


def make_meta(
    folder: Path,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    *,
    mp: int = 1,
    embedding: Literal["llama2", "llama3"] = "llama3",
    kind: Literal["pth", "safetensors"] = "pth",
    freqs: bool = True,
    vocab_size: int | None = None,
) -> Path:
    """Write the weights as `consolidated.NN.pth`, one file a model-parallel rank."""
    folder.mkdir()
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "multiple_of": 16,
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"],
        "vocab_size": config["vocab_size"] if vocab_size is None else vocab_size,
    }
    if head_dim * heads != config["hidden_size"]:
        params["head_dim"] = head_dim
    groups = config["num_key_value_heads"]
    if groups != heads:
        params["n_kv_heads"] = groups
    (folder / "params.json").write_text(json.dumps(params))
    whole = meta_weights(weights, head_dim)
    for rank in range(mp):
        shard = {}
        for name, tensor in whole.items():
            layer = name.split(".")[-2]
            dim = CUT.get(layer)
            if layer == "tok_embeddings":
                dim = 1 if embedding == "llama2" else 0
            if dim is None:
                shard[name] = tensor.clone()
            elif layer in ("wk", "wv") and mp > groups:
                # More ranks than key and value heads: each head lies on several ranks.
                shard[name] = tensor.chunk(groups, 0)[rank * groups // mp].clone()
            else:
                assert tensor.shape[dim] % mp == 0
                shard[name] = tensor.chunk(mp, dim)[rank].clone()
        if freqs:
            steps = torch.arange(0, head_dim, 2).float() / head_dim
            shard["rope.freqs"] = 1.0 / (config["rope_theta"] ** steps)
        if kind == "pth":
            torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
        else:
            save_file(shard, folder / "consolidated.safetensors")
    return folder
