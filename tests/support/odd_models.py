"""Models of the families with what their configs may say otherwise than usual.

`python -m tests.support.odd_models` prints one JSON object: name to config and shapes, of these and
of those in `families`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.support.families import MODELS, describe

# By name: the model, and what differs from `families.MODELS`.
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, no bias": ("llama", {"attention_bias": False, "mlp_bias": False}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "gemma2, untied": ("gemma2", {"tie_word_embeddings": False}),
    "deepseek_v2, queries whole": ("deepseek_v2", {"q_lora_rank": None}),
    "deepseek_v2, dense": ("deepseek_v2", {"first_k_dense_replace": 2}),
    "deepseek_v3, no dense layer": ("deepseek_v3", {"first_k_dense_replace": 0}),
    "deepseek_v3, predictions": ("deepseek_v3", {"num_nextn_predict_layers": 2}),
    "deepseek_v3, no shared expert": ("deepseek_v3", {"n_shared_experts": 0}),
    "glm4_moe, predictions": ("glm4_moe", {"num_nextn_predict_layers": 1}),
    "glm4_moe, no norm of queries": ("glm4_moe", {"use_qk_norm": False, "attention_bias": False}),
    "qwen2_moe, some dense": ("qwen2_moe", {"mlp_only_layers": [0]}),
    "qwen3_moe, some dense": ("qwen3_moe", {"decoder_sparse_step": 2}),
    "qwen3_moe, tied": ("qwen3_moe", {"tie_word_embeddings": True}),
    "nemotron_h, no experts": (
        "nemotron_h",
        {"layers_block_type": ["mamba", "mlp", "attention"], "num_hidden_layers": 3},
    ),
    "nemotron_h, no Mamba": (
        "nemotron_h",
        {"layers_block_type": ["attention", "mlp", "moe"], "num_hidden_layers": 3},
    ),
    "nemotron_h, plain experts": ("nemotron_h", {"moe_latent_size": None}),
    "nemotron_h, tied": ("nemotron_h", {"tie_word_embeddings": True}),
}


def described(name: str) -> dict[str, Any]:
    """Return what `families.describe` says of it, with prediction layers if its config counts them.

    transformers does not build these: each is one more layer, with a projection and norms.
    """
    model_type, changes = ODD[name]
    found = describe(model_type, **changes)
    predictions = changes.get("num_nextn_predict_layers", 0)
    if "error" in found or not predictions:
        return found
    config, shapes = found["config"], found["shapes"]
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    config["num_nextn_predict_layers"] = predictions
    last = f"model.layers.{layers - 1}."
    inner = {n.removeprefix(last): size for n, size in shapes.items() if n.startswith(last)}
    for number in range(predictions):
        front = f"model.layers.{layers + number}."
        shapes |= {f"{front}{n}": size for n, size in inner.items()}
        shapes |= {f"{front}{norm}.weight": [hidden] for norm in ("enorm", "hnorm")}
        shapes[f"{front}eh_proj.weight"] = [hidden, 2 * hidden]
        shapes[f"{front}shared_head.norm.weight"] = [hidden]
    return found


if __name__ == "__main__":
    models = {name: describe(name) for name in MODELS} | {name: described(name) for name in ODD}
    sys.stdout.write(json.dumps(models) + "\n")
