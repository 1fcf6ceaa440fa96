"""Llama as torchtitan names it: as Meta's own code does, each tensor in one piece."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.checkpoint import Convention

_EMBEDDING = "tok_embeddings.weight"
_QUERY = re.compile(r"layers\.\d+\.attention\.(?:qkv_linear\.)?wq\.weight$")
# What torchtitan calls otherwise since 2026.
_RENAMED = (("attention.qkv_linear.w", "attention.w"), ("lm_head.", "output."))
# torchtitan's other models have such names too, and rotate channels as Hugging Face does.
_OF_OTHERS = re.compile(r"layers\.\d+\.(?:attention\.[qk]_norm|moe)\.|.*\.bias$")
# What params.json calls the settings of config.json.
_WORDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_SCALED = {"low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}


def convention_of(names: Iterable[str]) -> Convention:
    """Return whose names they are: Meta's if they are those of Llama, else Hugging Face's."""
    names = list(names)
    is_meta = _EMBEDDING in names and any(map(_QUERY.match, names))
    return "meta" if is_meta and not any(map(_OF_OTHERS.match, names)) else "hf"


def meta_name(name: str) -> str:
    """Return Meta's name of a tensor of Llama."""
    for new, old in _RENAMED:
        name = name.replace(new, old)
    return name


def params_of(config: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """Return a Llama's config.json in the words of params.json; None for one of another model."""
    if config.get("model_type") != "llama":
        notes.append("config.json is not of a Llama, and the names are: it is not used")
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    rope = rope if isinstance(rope, dict) else {}
    fields = {**config, **{name: rope[name] for name in ("rope_theta",) if name in rope}}
    params = {name: fields[word] for name, word in _WORDS.items() if fields.get(word) is not None}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3" and all(rope.get(name) == value for name, value in _SCALED.items()):
        params |= {"use_scaled_rope": True, "rope_scaling_factor": rope.get("factor")}
    elif kind not in ("default", None):
        notes.append("config.json scales RoPE in a way that Meta's code does not: not compared")
    return params
