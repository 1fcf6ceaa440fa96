"""Claims of neurons or heads under other numbers: rows and columns moved alike change no output."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.row_order import is_in_order, order_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair

    Module = dict[tuple[str | None, bool], ShardPair]  # by role, and whether it is the bias

# The roles of what must agree on an order, in one module, and whether it is the bias.
_OF_HEADS = (("qkv", False), ("qkv", True), ("proj", False))
_OF_NEURONS = (("fc1", False), ("fc1", True), ("fc2", False))


def renumbered(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """Yield what is in another order in all tensors that must agree on it: it is no fault."""
    modules: dict[str, Module] = defaultdict(dict)
    for place in origins.firsts.values():
        modules[place.module][place.rule.role, place.rule.is_bias] = place
    groups: dict[tuple[str, bool], list[ShardPair]] = defaultdict(list)
    for place in left:
        part = place.rule.role, place.rule.is_bias
        if not place.is_copy and part in (*_OF_HEADS, *_OF_NEURONS):
            groups[place.module, part in _OF_HEADS].append(place)
    for (name, of_heads), found in groups.items():
        if of_heads and _heads_moved_alike(origins, name, modules[name]):
            yield Claim(
                "QKV-HEADMAP", "alike", tuple(found),
                "heads are under other numbers, with the output's columns",
                "attention heads were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip
        elif not of_heads and _neurons_moved_alike(origins, modules[name]):
            yield Claim(
                "FC1-TPLAYOUT", "alike", tuple(found),
                "neurons of the MLP are under other numbers, with the output's columns",
                "the MLP's neurons were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip


def _neurons_moved_alike(origins: Origins, module: Module) -> bool:
    """Ask whether gate, up and the columns of down have one order."""
    one, bias, other = (module.get(part) for part in _OF_NEURONS)
    if one is None or other is None:
        return False
    columns = order_of(origins, other)
    if columns is None or len(set(columns)) < len(columns):
        return False
    blocks = 1 if one.rule.block_rows is None else len(one.rule.block_rows(origins.grid.config))
    rows = [block * len(columns) + at for block in range(blocks) for at in columns]
    return is_in_order(origins, other, columns) and all(
        is_in_order(origins, place, rows) for place in (one, bias) if place is not None
    )


def _heads_moved_alike(origins: Origins, name: str, module: Module) -> bool:
    """Ask whether whole groups of heads moved, or query heads inside of one, with their columns."""
    config = origins.grid.config
    groups, each, d = config.num_query_groups, config.heads_per_group, config.kv_channels
    found = [module.get(part) for part in _OF_HEADS]
    qkv, bias, proj = found
    if qkv is None or proj is None or origins.grid.architecture.wide_qk_norm:
        return False
    if any(p.rule.dim is not None and p.name.startswith(f"{name}.") and p not in found
           for p in origins.firsts.values()):  # fmt: skip
        return False
    rows = order_of(origins, qkv)
    q = groups * each * d
    if rows is None or len(rows) != q + 2 * groups * d:
        return False
    heads = [rows[h * d] // d for h in range(groups * each)]
    keys = [(rows[q + g * d] - q) // d for g in range(groups)]
    values = [rows[q + groups * d + i] - q - groups * d for i in range(groups * d)]
    if any(head // each != keys[h // each] for h, head in enumerate(heads)):
        return False
    # Values may be in any order inside their head: it is the output's columns that must follow.
    if any(value // d != keys[i // d] for i, value in enumerate(values)):
        return False
    expected = [head * d + i for head in heads for i in range(d)]
    expected += [q + key * d + i for key in keys for i in range(d)]
    expected += [q + groups * d + value for value in values]
    columns = [
        head * d + values[h // each * d + i] % d for h, head in enumerate(heads) for i in range(d)
    ]
    return (
        len(set(expected)) == len(expected)
        and is_in_order(origins, qkv, expected)
        and is_in_order(origins, proj, columns)
        and (bias is None or is_in_order(origins, bias, expected))
    )
