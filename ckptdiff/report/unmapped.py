"""Names that no rule knows, in lines: many that begin alike are one line."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled

_FEW = 4  # names that begin alike and still have a line each


def unmapped_groups(side: Assembled) -> list[tuple[str, int]]:
    """Return (name, 1), or for many names (what they have in common, how many), in order.

    They share the module that they begin with, if nothing else is in it; else all but numbers.
    """
    unmapped = set(side.unmapped)
    known = {
        name.partition(".")[0]
        for shard in side.checkpoint.shards
        for name in shard.tensors
        if name not in unmapped
    }
    groups: dict[str, list[str]] = defaultdict(list)
    for name in side.unmapped:
        first, dot, _ = name.partition(".")
        is_apart = bool(dot) and first not in known
        groups[f"{first}.*" if is_apart else split_name(name)[0].replace("#", "*")].append(name)
    return [
        item
        for common, names in groups.items()
        for item in ([(common, len(names))] if len(names) > _FEW else [(n, 1) for n in names])
    ]
