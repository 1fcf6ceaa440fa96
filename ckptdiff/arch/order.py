"""The order in which a model runs through its tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from ckptdiff.arch.base import split_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.arch.base import Architecture


T = TypeVar("T")


def put_in_model_order(named: Mapping[str, T], architecture: Architecture | None) -> dict[str, T]:
    """Return what belongs to names, the names as the model runs through them."""
    return {name: named[name] for name in in_model_order(named, architecture)}


def in_model_order(names: Iterable[str], architecture: Architecture | None) -> list[str]:
    """Return names as the model runs through them; those no rule knows come last."""
    first_layer = _first_layer(architecture)

    def place(name: str) -> tuple[object, ...]:
        key, indices = split_name(name)
        order = architecture.order_of(key) if architecture is not None else None
        if order is None:
            # Numbers inside unknown names are compared as numbers.
            parts = re.split(r"(?<![0-9])([0-9]{1,18})(?![0-9])", name)
            return 3, tuple(
                (int(p), "") if p.isdecimal() and len(p) <= 18 else (-1, p) for p in parts
            )
        if indices:
            return 1, indices[0], order, indices
        return (0 if order < first_layer else 2), order

    return sorted(names, key=place)


def _first_layer(architecture: Architecture | None) -> int:
    """Return the place of the first rule that speaks of a layer: rules are in model order."""
    names = [hf for rule in (architecture.mappings if architecture else ()) for hf in rule.hf]
    return next((i for i, hf in enumerate(names) if "{layer}" in hf), 0)
