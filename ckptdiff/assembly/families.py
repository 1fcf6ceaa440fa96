"""Which families a Megatron checkpoint may be of: its args name none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch import fitting_architectures
from ckptdiff.arch.naming import QUERY_NORM
from ckptdiff.assembly.local_numbers import shards_by_split_names
from ckptdiff.config import model as configs
from ckptdiff.errors import UnknownConfig

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Checkpoint, Shard


def fitting_families(checkpoint: Checkpoint) -> list[Architecture]:
    """Return the families whose rules know the names of a Megatron checkpoint, plainest first."""
    named = shards_by_split_names(checkpoint)
    keys = {key for _, names in named for (key, _), _ in names}
    return fitting_architectures(keys, wide_qk_norm=has_wide_norms(checkpoint, named))


def has_wide_norms(checkpoint: Checkpoint, named: list[tuple[Shard, SplitNames]]) -> bool | None:
    """Return whether the query norm spans all heads together; None if that cannot be known."""
    sizes = {ref.shape for _, names in named for (key, _), ref in names if key == QUERY_NORM}
    if not sizes or not checkpoint.config:
        return None
    try:
        config = configs.from_megatron(checkpoint.config)
    except UnknownConfig:
        return None
    if config.kv_lora_rank:
        return None  # latent attention normalises the compressed queries
    return config.num_attention_heads > 1 and (config.kv_channels,) not in sizes
