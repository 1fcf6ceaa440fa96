"""Model order: the order in which a forward pass uses the tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from ckptdiff.arch.templates import split_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.arch.base import Architecture


T = TypeVar("T")


def put_in_model_order(named: Mapping[str, T], architecture: Architecture | None) -> dict[str, T]:
    """Return a mapping with its names in model order."""
    return {name: named[name] for name in in_model_order(named, architecture)}


def in_model_order(names: Iterable[str], architecture: Architecture | None) -> list[str]:
    """Return names in model order; those that no rule knows come last.

    What Megatron fuses stays together: gate and up of one expert, then those of the next.
    """
    first_layer = _first_layer(architecture)

    def sort_key(name: str) -> tuple[object, ...]:
        key, indices = split_name(name)
        order = architecture.order_of(key) if architecture is not None else None
        if order is None:
            # Numbers inside unknown names are sorted as numbers: layer 10 comes after layer 9.
            parts = re.split(r"(?<![0-9])([0-9]{1,18})(?![0-9])", name)
            return 3, tuple(
                (int(p), "") if p.isdecimal() and len(p) <= 18 else (-1, p) for p in parts
            )
        if indices:
            rule, place = order
            return 1, indices[0], rule, indices, place
        return (0 if order[0] < first_layer else 2), order

    return sorted(names, key=sort_key)


def _first_layer(architecture: Architecture | None) -> int:
    """Return the number of the first rule of a layer: rules are in model order."""
    rules = architecture.mappings if architecture else ()
    return next((i for i, rule in enumerate(rules) if any("{layer}" in hf for hf in rule.hf)), 0)
