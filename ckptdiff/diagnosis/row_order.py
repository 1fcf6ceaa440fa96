"""In which order the rows of a rule's tensors are, and what an order that nobody knows is of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import transpose
from ckptdiff.diagnosis.queries import first_columns
from ckptdiff.resharding.shard_pairs import chosen_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.resharding.shard_pairs import ShardPair


def order_of(origins: Origins, place: ShardPair) -> list[int] | None:
    """Return which row (or column) each one of a rule's tensors is, one tensor below the other.

    None where one is none of them, or there twice.
    """
    found: list[int] = []
    before = 0
    for one, other in _pairs(origins, place):
        match = origins.ask.match(first_columns(one), first_columns(other))
        if not match or min(match) < 0:
            return None
        found += [before + row for row in match]
        before += one.shape[0]
    return found


def is_in_order(origins: Origins, place: ShardPair, order: list[int]) -> bool:
    """Ask whether a rule's tensors hold all their rows (or columns) in this order."""
    before = 0
    pairs = []
    for one, other in _pairs(origins, place):
        rows = order[before : before + one.shape[0]]
        if any(not before <= row < before + one.shape[0] for row in rows):
            return False
        pairs.append((chosen_rows(one, [row - before for row in rows]), other))
        before += one.shape[0]
    return before == len(order) and all(origins.ask.alike(pairs))


def _pairs(origins: Origins, place: ShardPair) -> Iterator[tuple[Assembly, Assembly]]:
    """Yield A's and B's tensors of a rule, cut along what are rows then."""
    for name in place.share.hf:
        pair = (origins.grid.a.tensors[name], origins.grid.b.tensors[name])
        one, other = (replace(tensor, dtype=place.actual.dtype) for tensor in pair)
        if len(one.shape) > 1 and (place.rule.dim == 1) != place.rule.transposed:
            one, other = transpose(one), transpose(other)
        yield one, other


def class_of_order(rows: list[int], config: ModelConfig) -> FaultClass | None:
    """Return the class of an order of query, key and value rows: of whole heads, or inside them."""
    d, groups = config.kv_channels, config.num_query_groups
    values = (config.num_attention_heads + groups) * d
    if len(rows) not in (values - groups * d, values + groups * d):  # of the output's columns
        return None
    heads = [rows[at : at + d] for at in range(0, len(rows), d)]
    if all(head == [head[0] - head[0] % d + i for i in range(d)] for head in heads):
        return "QKV-HEADMAP"
    inside = {
        tuple(row % d for row in head)
        for at, head in enumerate(heads)
        if head != list(range(at * d, (at + 1) * d))
    }
    at_home = all(row // d == at for at, head in enumerate(heads) for row in head)
    of_values = rows[values:] != list(range(values, len(rows)))
    return "ROPE-PERM" if at_home and len(inside) == 1 and not of_values else None
