"""Whether two sides' configs have a step computed by the same rules, for given sequences.

Rules that show at some positions alone, or in sequences of some length alone: a sample would not
tell that they differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.model import Rope
    from ckptdiff.forward.steps import Step

# The fields of Model by which a step may treat some values unlike others.
_FIELDS = {
    "project": ("qkv_limit",),
    "norm_heads": ("qkv_limit",),
    "attend": ("softmax_scale", "softmax_type", "attention_cap", "is_causal"),
    "logits": ("logit_cap",),
    **dict.fromkeys(
        ("activate", "activate_experts", "activate_shared"),
        ("activation", "gated", "gate_limit", "up_offset"),
    ),
}


def have_same_rules(step: Step, one: LayerOf, other: LayerOf, lengths: Iterable[int]) -> bool:
    """Return whether both compute a step by the same rules, for sequences of these lengths."""
    fields = _FIELDS.get(step.method, ())
    if any(getattr(one.model, field) != getattr(other.model, field) for field in fields):
        return False
    if step.method == "attend":
        return one.layer.window == other.layer.window
    if step.method in ("rotate", "rotate_latent"):
        return _have_same_angles(one.layer.rope, other.layer.rope, lengths)
    return True


def _have_same_angles(one: Rope | None, other: Rope | None, lengths: Iterable[int]) -> bool:
    if one is None or other is None:
        return one is other
    if one == other:
        return True
    if replace(one, base=0.0, scaling={}) != replace(other, base=0.0, scaling={}):
        return False
    for length in set(lengths):
        (radians, scale), (theirs, their_scale) = (frequencies(x, length) for x in (one, other))
        if scale != their_scale or not torch.equal(radians, theirs):
            return False
    return True
