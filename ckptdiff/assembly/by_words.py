"""Give a pair the rules that its names' words allow, where no family's rules know the names."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.naming import is_of_local_expert, split_native
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.templates import split_name
from ckptdiff.arch.vocabulary import Shards, rules_by_words
from ckptdiff.assembly.derived_buffers import is_derived
from ckptdiff.assembly.unwrapping import unwrapped
from ckptdiff.config import model as configs
from ckptdiff.errors import UnknownConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.config.model import ModelConfig


def with_rules_by_words(side: Assembled, other: Checkpoint) -> Assembled:
    """Return a side that has Hugging Face's names with rules for what no family's rules know.

    `other` is a Megatron checkpoint to be read by these rules. The side is returned as it is if
    there is nothing to add, or if no rule would know the embedding.
    """
    if other.convention != "megatron":
        return side
    known = side.architecture
    shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name, tensor in side.tensors.items():
        key = split_name(name)[0]
        if known is None or known.order_of(key) is None:
            shapes[key].add(tensor.shape)
    if not shapes:
        return side
    stored: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for shard in unwrapped(other).checkpoint.shards:
        for native, ref in shard.tensors.items():
            key = split_native(native)[0]
            if (known is None or known.rule_for(key) is None) and not is_derived(key):
                stored[key].add(ref.shape)
    if not stored:
        return side
    size = other.parallelism
    tp, etp = (1, 1) if other.chunks is not None else (size.tp, size.etp)
    rules = rules_by_words(
        {key: shape for key, (shape, *more) in _ordered(shapes) if not more},
        {
            key: Shards(shape, etp if is_of_local_expert(key) else tp)
            for key, (shape, *more) in _ordered(stored)
            if not more
        },
        _config(side, other),
    )
    if not rules:
        return side
    if known is not None:
        architecture = replace(known, mappings=(*known.mappings, *rules))
    elif any(rule.role == "embedding" for rule in rules):
        model_type = str((side.checkpoint.config or {}).get("model_type") or "unknown")
        architecture = Architecture(model_type, (), (), _in_order(rules), by_words=True)
    else:
        return side
    tensors = put_in_model_order(side.tensors, architecture)
    return replace(side, architecture=architecture, tensors=tensors)


def _ordered(
    shapes: dict[str, set[tuple[int, ...]]],
) -> Iterable[tuple[str, list[tuple[int, ...]]]]:
    return ((key, sorted(found)) for key, found in shapes.items())


def _config(side: Assembled, other: Checkpoint) -> ModelConfig | None:
    """Return the sizes that the args of `other` state, else those of the side's config."""
    if other.config is not None:
        try:
            return configs.from_megatron(other.config)
        except UnknownConfig:
            pass
    return side.config


def _in_order(rules: tuple[ParamMapping, ...]) -> tuple[ParamMapping, ...]:
    """Return rules in model order: what stands before the layers, in them, behind them."""
    places = {"embedding": 0, "positions": 0, "head": 3}
    return tuple(
        sorted(rules, key=lambda r: places.get(r.role or "", 1 if "{" in r.megatron else 2))
    )
