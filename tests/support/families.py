"""Tiny models of every family: what transformers' own classes hold, and the rules' cut of it.

`python -m tests.support.families` prints one JSON object: name to config and to the shapes of all
parameters.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.arch.scatter import scatter
from ckptdiff.arch.templates import split_name
from ckptdiff.checkpoint import Checkpoint, Parallelism, Rank, Shard, TensorRef, contiguous

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Box

Stored = dict[tuple[Path, str], torch.Tensor]  # flat, by file and native name
PADDING, NOTHING = -1, -2
_EXPERT = ".local_experts."

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
SHARED = {"shared_expert_intermediate_size": 24}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 14,
    "partial_rotary_factor": 0.5,
}
# Families that transformers has no model of its own for: the language half of a vision model, say.
WITHOUT_CLASS = {"qwen3_vl_moe"}
PLAIN = {"head_dim": 8, "num_key_value_heads": 4}
# The family that is to be found, by transformers' model type, and what differs from SIZES.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "seed_oss": ("seed_oss", {"attention_out_bias": True, "mlp_bias": True}),
    "ernie4_5": ("ernie4_5", {"use_bias": True}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", {**EXPERTS, **SHARED}),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "deepseek_v2": ("deepseek", {**ROUTED, **LATENT}),
    "deepseek_v3": ("deepseek", {**ROUTED, **LATENT}),
    "glm4_moe_lite": ("deepseek", {**ROUTED, **LATENT}),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 64,
            "intermediate_size": 128,
            **PLAIN,
        },
    ),
    "nemotron": ("nemotron", {"head_dim": 8}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma3_text": ("gemma3", {}),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": ("glm4_moe", {**ROUTED, "use_qk_norm": True, "attention_bias": True}),
    "olmo2": ("olmo2", {"head_dim": 8}),
    "olmo3": ("olmo2", {"head_dim": 8}),
    "exaone4": ("exaone4", {}),
    "olmoe": ("olmoe", {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2}),
    "minimax_m2": ("minimax_m2", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": ("phi3", {"head_dim": 8}),
    "qwen3_next": ("qwen3_next", {**EXPERTS, **SHARED, **DELTA}),
    "qwen3_5_text": ("qwen3_5", DELTA),
    "qwen3_5_moe_text": ("qwen3_5_moe", {**EXPERTS, **SHARED, **DELTA}),
    "gpt_neox": ("gpt_neox", PLAIN),
    "nemotron_h": (
        "nemotron_h",
        {
            **ROUTED,
            "num_hidden_layers": 5,
            "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba"],
            "moe_shared_expert_intermediate_size": 28,
            "moe_latent_size": 12,
            "mamba_num_heads": 4,
            "mamba_head_dim": 6,
            "n_groups": 2,
            "ssm_state_size": 5,
        },
    ),
}


def on_disk(config: dict[str, Any], weights: dict[str, torch.Tensor], stored: Stored) -> Checkpoint:
    """Return a Hugging Face folder that holds these tensors."""
    refs = _refs(Path("hf"), weights, stored)
    return Checkpoint(Path(), "hf", "hf", config, Parallelism(), (Shard(Rank(), 0, refs),), ())


def cut(
    whole: Assembled,
    weights: dict[str, torch.Tensor],
    tp: int,
    ep: int,
    stored: Stored,
    etp: int | None = None,
) -> Checkpoint:
    """Return a Megatron checkpoint of one stage, cut as the rules say; `etp` is `tp` or 1."""
    etp = etp or tp
    assert whole.architecture is not None
    assert whole.config is not None
    vocabulary = whole.config.vocab_size or 0
    sizes = replace(whole.config, padded_vocab_size=-(-vocabulary // (24 * tp)) * 24 * tp)
    dtype = next(iter(weights.values())).dtype
    states: dict[Rank, dict[str, torch.Tensor]] = defaultdict(dict)
    each = max(1, sizes.num_experts // ep)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    transposed = whole.architecture.stores_transposed
    upright = {n: w.T if transposed(split_name(n)[0]) else w for n, w in weights.items()}
    cuts = [
        (share.rank, share.name, share.pieces)
        for share in scatter(whole.architecture, sizes, shapes, tp)
        if etp == tp or _EXPERT not in share.name
    ]
    if etp != tp:
        cuts += [
            (t, share.name, share.pieces)
            for share in scatter(whole.architecture, sizes, shapes, 1)
            if _EXPERT in share.name
            for t in range(tp)
        ]
    for t, name, pieces in cuts:
        shape = [max(of[d][1] for _, _, of in pieces) for d in range(len(pieces[0][2]))]
        shard = torch.full(shape, NOTHING, dtype=dtype)
        for source, box, of in pieces:
            assert bool((shard[at(of)] == NOTHING).all()), f"{name}: {of} is filled twice"
            shard[at(of)] = PADDING if source is None else upright[source][at(box)]
        assert not bool((shard == NOTHING).any()), f"{name}: not all is filled"
        front, local, rest = name.partition(_EXPERT)
        expert, _, tail = rest.partition(".")
        for e in range(ep):
            if not local:
                assert name not in states[Rank(t, 0, e)]
                states[Rank(t, 0, e)][name] = shard
            elif int(expert) // each == e:
                native = f"{front}{local}{int(expert) % each}.{tail}"
                states[Rank(t, 0, e)][native] = shard
    shards = []
    for rank, state in sorted(states.items()):
        file = Path(f"tp{rank.tp}-ep{rank.ep}")
        shards.append(Shard(rank, 0, _refs(file, state, stored)))
    parallelism = Parallelism(tp=tp, ep=ep, etp=etp)
    return Checkpoint(Path(), "megatron", "megatron", None, parallelism, tuple(shards), ())


def gathered(side: Assembled, stored: Stored) -> dict[str, torch.Tensor]:
    """Return the whole tensors, each element filled once, and alike in every copy."""
    dtype = next(iter(stored.values())).dtype
    found = {}
    for name, assembly in side.tensors.items():
        tensor = torch.full(assembly.shape, NOTHING, dtype=dtype)
        for piece in assembly.pieces:
            assert bool((tensor[at(piece.box)] == NOTHING).all()), f"{name}: {piece.box} twice"
            part = content(piece.ref, stored)[at(piece.of)]
            for copy in piece.copies:
                assert torch.equal(content(copy.ref, stored)[at(piece.of)], part)
            tensor[at(piece.box)] = part
        assert not bool((tensor == NOTHING).any()), f"{name}: not all is filled"
        found[name] = tensor
    return found


def content(ref: TensorRef, stored: Stored) -> torch.Tensor:
    flat = stored[ref.file, ref.name]
    return flat.as_strided(ref.shape, ref.stride, ref.offset // 8)


def at(box: Box) -> tuple[slice, ...]:
    return tuple(slice(*bounds) for bounds in box)


def _refs(file: Path, tensors: dict[str, torch.Tensor], stored: Stored) -> dict[str, TensorRef]:
    """Keep tensors where a file of this name would, and return their headers."""
    stored |= {(file, name): tensor.reshape(-1) for name, tensor in tensors.items()}
    return {
        name: TensorRef(name, tuple(t.shape), "I64", file, 0, contiguous(tuple(t.shape)))
        for name, t in tensors.items()
    }


def describe(model_type: str, **changes: Any) -> dict[str, Any]:
    """Return the config as config.json has it, and every parameter's shape; nothing is stored.

    `changes` are entries of the config that differ from those of `MODELS`. What transformers has no
    model of is described by its error, and hides no other model.
    """
    try:
        return _described(model_type, changes)
    except Exception as error:  # noqa: BLE001 -- whatever transformers raises
        return {"error": f"transformers: {model_type}: {type(error).__name__}: {error}"[:500]}


def _described(model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    transformers = import_module("transformers")
    _, differing = MODELS[model_type]
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **differing, **changes})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    written = config.to_dict() | {"architectures": [type(model).__name__]}
    # transformers shares a tied head; what it writes to disk leaves it out.
    shapes = {
        name: list(value.shape)
        for name, value in model.state_dict().items()
        if not (name == "lm_head.weight" and config.tie_word_embeddings)
    }
    return {"config": json.loads(json.dumps(written, default=str)), "shapes": shapes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: describe(name) for name in MODELS}) + "\n")
