"""Hugging Face tensors that have no name in Megatron, and why.

Sources: megatron.core.transformer's multi_latent_attention.py and moe/shared_experts.py, and
megatron.core.ssm.mamba_mixer, from 0.14 to 0.19.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WITHOUT_PLACE = (
    (
        r"self_attn\.(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj)\.bias",
        "Megatron's latent attention has no bias before linear_proj",
    ),
    (r"shared_experts?\.\w+_proj\.bias", "Megatron's shared experts have no biases"),
    (r"mixer\.(in|out)_proj\.bias", "Megatron's MambaMixer has no bias in in_proj and out_proj"),
)
_RULED = tuple((re.compile(rf"(.*\.)?{ending}"), why) for ending, why in _WITHOUT_PLACE)


def why_without_place(names: Iterable[str]) -> list[str]:
    """Return why Megatron has no name for these tensors, a clause for each kind of them."""
    found = (why for name in names for pattern, why in _RULED if pattern.fullmatch(name))
    return list(dict.fromkeys(found))
