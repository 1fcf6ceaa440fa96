"""The parts that a layer is made of: where layers are of several kinds, a rule belongs to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ckptdiff.arch.llama import MEGATRON

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture, ParamMapping

Part = Literal["attention", "delta_net", "mamba", "mlp", "experts"]

# How Megatron's name goes on behind the layer; the first that fits. What is left are norms, which
# stand in front of any part.
_BEGINNINGS: tuple[tuple[str, Part], ...] = (
    *(
        (f"self_attention.{name}", "delta_net")
        for name in ("in_proj.", "conv1d.", "A_log", "dt_bias", "out_norm.", "out_proj.")
    ),
    ("self_attention.", "attention"),
    ("mixer.", "mamba"),
    *(
        (f"mlp.{name}", "experts")
        for name in ("router.", "experts.", "shared_experts.", "fc1_latent_proj", "fc2_latent_proj")
    ),
    ("mlp.", "mlp"),
)
_MIXERS: frozenset[Part] = frozenset({"attention", "delta_net", "mamba"})
_PREDICTION = "mtp.layers.{mtp}.transformer_layer."


def part_of(rule: ParamMapping) -> Part | None:
    """Return the part of a layer that a rule's tensor belongs to; None for one of every layer."""
    name = rule.megatron.removeprefix(MEGATRON).removeprefix(_PREDICTION)
    return next((part for start, part in _BEGINNINGS if name.startswith(start)), None)


def alternatives(architecture: Architecture) -> list[frozenset[Part]]:
    """Return groups of parts, of each of which a layer has one."""
    rules = [rule for rule in architecture.mappings if rule.of_layers]
    parts = frozenset(part for rule in rules if (part := part_of(rule)) is not None)
    if "mamba" in parts:
        return [parts]  # each layer is one of them alone
    return [parts & _MIXERS, parts - _MIXERS]
