"""Latent attention out of local parts of megatron-core, which are made for one width of heads."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def by_channels() -> Any:
    """Attention of local parts that is told how wide values are, as latent attention tells it."""
    local = import_module("megatron.core.transformer.dot_product_attention")
    latent: Any = import_module("megatron.core.transformer.multi_latent_attention")
    # It takes Transformer Engine to be there if its own wrappers of it are.
    latent.HAVE_TE = False
    attention: Any = local.DotProductAttention

    class ByChannels(attention):  # type: ignore[misc]
        def __init__(
            self, *args: Any, k_channels: int = 0, v_channels: int = 0, **kwargs: Any
        ) -> None:
            super().__init__(*args, **kwargs)
            self.hidden_size_per_partition = v_channels * self.num_attention_heads_per_partition

    return ByChannels
