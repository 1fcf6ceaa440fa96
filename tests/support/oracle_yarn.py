"""Ask transformers and megatron-core what YaRN makes of a head. Run by `oracle_server`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tests.support.oracle_core import meet

HEAD = 8


def compare(
    *, meeting: str, rank: int, scalings: list[dict[str, Any]], args: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return by what cosine and sine are scaled, and how many channels megatron-core rotates."""
    meet(meeting, rank, 1)
    transformers = import_module("transformers")
    yarn = import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS["yarn"]
    sizes = {"head_dim": HEAD, "max_position_embeddings": 64}
    configs = [transformers.LlamaConfig(**sizes, rope_parameters=dict(one)) for one in scalings]
    module = import_module("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding")
    made = [module.YarnRotaryEmbedding(HEAD, use_cpu_initialization=True, **one)(4) for one in args]
    return {
        "huggingface": [yarn(config, "cpu")[1] for config in configs],
        "megatron": [float(factor) for _, factor in made],
        "rotated": [positions.shape[-1] for positions, _ in made],
    }
