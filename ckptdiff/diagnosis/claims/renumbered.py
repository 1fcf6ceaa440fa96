"""Claims of renumbered neurons or heads: rows and columns moved together change no output."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.row_order import is_in_order, order_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair

    Module = dict[tuple[str | None, bool], ShardPair]  # by (role, whether it is the bias)

# The (role, whether it is the bias) of the tensors of a module that must agree on an order.
_OF_HEADS = (("qkv", False), ("qkv", True), ("proj", False))
_OF_NEURONS = (("fc1", False), ("fc1", True), ("fc2", False))


def renumbered(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield info claims of modules whose tensors all have the same other order."""
    modules: dict[str, Module] = defaultdict(dict)
    for pair in origins.firsts.values():
        modules[pair.module][pair.rule.role, pair.rule.is_bias] = pair
    groups: dict[tuple[str, bool], list[ShardPair]] = defaultdict(list)
    for pair in unexplained:
        part = pair.rule.role, pair.rule.is_bias
        if not pair.is_copy and part in (*_OF_HEADS, *_OF_NEURONS):
            groups[pair.module, part in _OF_HEADS].append(pair)
    for (name, of_heads), found in groups.items():
        if of_heads and _heads_moved_together(origins, name, modules[name]):
            yield Claim(
                "QKV-HEADMAP", "alike", tuple(found),
                "heads are under other numbers, with the output's columns",
                "attention heads were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip
        elif not of_heads and _neurons_moved_together(origins, modules[name]):
            yield Claim(
                "FC1-TPLAYOUT", "alike", tuple(found),
                "neurons of the MLP are under other numbers, with the output's columns",
                "the MLP's neurons were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip


def _neurons_moved_together(origins: Origins, module: Module) -> bool:
    """Return whether the rows of fc1 (of gate and of up) have the order of fc2's columns."""
    fc1, bias, fc2 = (module.get(part) for part in _OF_NEURONS)
    if fc1 is None or fc2 is None:
        return False
    columns = order_of(origins, fc2)
    if columns is None or len(set(columns)) < len(columns):
        return False
    blocks = 1 if fc1.rule.block_rows is None else len(fc1.rule.block_rows(origins.grid.config))
    rows = [block * len(columns) + at for block in range(blocks) for at in columns]
    return is_in_order(origins, fc2, columns) and all(
        is_in_order(origins, pair, rows) for pair in (fc1, bias) if pair is not None
    )


def _heads_moved_together(origins: Origins, name: str, module: Module) -> bool:
    """Return whether heads moved as a renumbering may: in whole groups, with proj's columns.

    Query heads may also move within their group, and value rows within their head.
    """
    config = origins.grid.config
    groups, per_group, d = config.num_query_groups, config.heads_per_group, config.kv_channels
    qkv, bias, proj = (module.get(part) for part in _OF_HEADS)
    if qkv is None or proj is None or origins.grid.architecture.wide_qk_norm:
        return False
    known = {pair.name for pair in (qkv, bias, proj) if pair is not None}
    if any(p.rule.dim is not None and p.name.startswith(f"{name}.") and p.name not in known
           for p in origins.firsts.values()):  # fmt: skip
        return False  # another split tensor, whose order is not looked at
    rows = order_of(origins, qkv)
    q = groups * per_group * d
    if rows is None or len(rows) != q + 2 * groups * d:
        return False
    heads = [rows[h * d] // d for h in range(groups * per_group)]
    keys = [(rows[q + g * d] - q) // d for g in range(groups)]
    values = [rows[q + groups * d + i] - q - groups * d for i in range(groups * d)]
    if any(head // per_group != keys[h // per_group] for h, head in enumerate(heads)):
        return False
    # Value rows may be in any order inside their head if the columns of proj follow it.
    if any(value // d != keys[i // d] for i, value in enumerate(values)):
        return False
    expected = [head * d + i for head in heads for i in range(d)]
    expected += [q + key * d + i for key in keys for i in range(d)]
    expected += [q + groups * d + value for value in values]
    columns = [
        head * d + values[h // per_group * d + i] % d
        for h, head in enumerate(heads)
        for i in range(d)
    ]
    return (
        len(set(expected)) == len(expected)
        and is_in_order(origins, qkv, expected)
        and is_in_order(origins, proj, columns)
        and (bias is None or is_in_order(origins, bias, expected))
    )
