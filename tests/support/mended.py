"""Pairs of old converters, whose configs conflict: with settings that agree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.config.compare import compare_configs

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.config.compare import ConfigDiff


def conflicts(a: Assembled, b: Assembled) -> list[ConfigDiff]:
    return [line for line in compare_configs(a, b) if line.status == "conflict"]


def mended(hf: Checkpoint, megatron: Checkpoint, lines: list[ConfigDiff]) -> list[Checkpoint]:
    """Return both with settings that agree: old converters wrote args of their own."""
    config, args = dict(hf.config or {}), dict(megatron.config or {})
    for line in lines:
        if line.meaning == "RoPE base":
            args[str(line.name_b)] = line.a
        elif line.meaning == "RoPE scaling":
            scaling = config["rope_scaling"]
            args |= {"use_rope_scaling": True, "rope_scaling_factor": scaling["factor"]}
            config["rope_scaling"] = {**scaling, "original_max_position_embeddings": 8192}
        else:
            assert (
                line.meaning == "Vocabulary"
            )  # one side has less, and that is all that is compared
    return [replace(hf, config=config), replace(megatron, config=args)]
