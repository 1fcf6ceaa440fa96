"""Find the order that rows (or columns) of a rule's tensors are in, and the class of an order."""

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


def order_of(origins: Origins, pair: ShardPair) -> list[int] | None:
    """Return for each row of B's tensors of a rule, concatenated, the row of A's that it is.

    Columns for a row-parallel rule. None where a row is unknown or occurs twice.
    """
    order: list[int] = []
    start = 0
    for one, other in _canonical_tensors(origins, pair):
        match = origins.ask.match_rows(first_columns(one), first_columns(other))
        if not match or min(match) < 0:
            return None
        order += [start + row for row in match]
        start += one.shape[0]
    return order


def is_in_order(origins: Origins, pair: ShardPair, order: list[int]) -> bool:
    """Return whether B's tensors of a rule hold all rows (or columns) of A's in this order."""
    start = 0
    contents = []
    for one, other in _canonical_tensors(origins, pair):
        rows = order[start : start + one.shape[0]]
        if any(not start <= row < start + one.shape[0] for row in rows):
            return False
        contents.append((chosen_rows(one, [row - start for row in rows]), other))
        start += one.shape[0]
    return start == len(order) and all(origins.ask.are_equal(contents))


def _canonical_tensors(origins: Origins, pair: ShardPair) -> Iterator[tuple[Assembly, Assembly]]:
    """Yield A's and B's tensors of a rule, transposed where the rule splits columns."""
    for name in pair.hf_names:
        sides = (origins.grid.a.tensors[name], origins.grid.b.tensors[name])
        one, other = (replace(tensor, dtype=pair.actual.dtype) for tensor in sides)
        if len(one.shape) > 1 and (pair.rule.dim == 1) != pair.rule.transposed:
            one, other = transpose(one), transpose(other)
        yield one, other


def class_of_order(rows: list[int], config: ModelConfig) -> FaultClass | None:
    """Return the class of an order of query, key and value rows.

    QKV-HEADMAP for whole heads, ROPE-PERM for one order inside query and key heads, else None.
    `rows` are those of q, k and v concatenated, or the columns of the output projection.
    """
    d, groups = config.kv_channels, config.num_query_groups
    values = (config.num_attention_heads + groups) * d
    if len(rows) not in (values - groups * d, values + groups * d):  # columns of proj; rows of qkv
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
