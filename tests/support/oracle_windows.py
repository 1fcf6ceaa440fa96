"""Ask transformers which layers of a config have a window. Run by `oracle_server`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def compare(*, meeting: str, rank: int, configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each config its window by layer, 0 for none, as its class holds it."""
    mapping = import_module("transformers").CONFIG_MAPPING
    found = []
    for config in configs:
        held = mapping[config["model_type"]](**config)
        # Qwen3-MoE's has no kinds of layers: its model has one mask for all.
        kinds = getattr(held, "layer_types", None) or ["sliding_attention"] * held.num_hidden_layers
        window = held.sliding_window or 0
        found.append([window if kind == "sliding_attention" else 0 for kind in kinds])
    return {"windows": found}
