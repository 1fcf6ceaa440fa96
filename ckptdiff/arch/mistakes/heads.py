"""Mistakes with heads: query, key and value rows of a fused projection in another order.

Sources of slices are 0 for q, 1 for k and 2 for v. In comments, d is the head dimension.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Slice, crop_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.arch.base import Partition
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.fault_classes import FaultClass

    Rows = Callable[[ModelConfig], Iterable[Slice]]  # of the whole model, in order
    MistakenOrder = tuple[FaultClass, str, str, str, Partition]  # class, key, words, cause, slices

_BY_STRIDE = (("heads-by-stride", False), ("heads-by-stride-back", True))


def columns_by_stride() -> Iterator[MistakenOrder]:
    """Yield the orders of proj's columns when heads are assigned to the groups by stride."""
    for key, back in _BY_STRIDE:
        yield (
            "QKV-HEADMAP", key, "columns of heads by stride, not by group",
            "the converter numbered heads across the query groups",
            _even(partial(_strided_columns, back=back), size=_query_rows),
        )  # fmt: skip


def head_mistakes(c: ModelConfig) -> Iterator[MistakenOrder]:
    """Yield the mistaken orders of the rows of a fused QKV projection, the likeliest first."""
    groups, heads, d = c.num_query_groups, c.num_attention_heads, c.kv_channels
    flat = "a converter for models without query groups, or one that concatenated q, k and v"
    yield "QKV-LAYOUT", "flat", "flat [Q; K; V], not per query group", flat, _even(_flat)
    yield (
        "QKV-LAYOUT", "flat-per-rank", "flat [Q; K; V] in each rank, not per query group", flat,
        _flat_per_rank,
    )  # fmt: skip
    for count in range(1, heads + 1):
        if count != groups and heads % count == 0 and (groups * d) % count == 0:
            yield (
                "QKV-LAYOUT", f"groups-{count}",
                f"interleaved as if there were {count} query group{'s' * (count > 1)}",
                "another number of query groups, or the whole model's for one rank's share",
                _even(partial(_grouped, count=count)),
            )  # fmt: skip
    yield (
        "QKV-LAYOUT", "version-1", "in the order of checkpoint versions below 2",
        "checkpoint_version was not known when the rows were ordered", _even(_legacy),
    )  # fmt: skip
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            names = ", ".join("qkv"[i].upper() for i in order)
            what = "K and V exchanged" if order == (0, 2, 1) else f"in the order {names}"
            yield (
                "QKV-SWAP", "order-" + "".join("qkv"[i] for i in order),
                f"{what} inside every query group",
                "the converter took q, k and v in another order than Megatron stores them",
                _even(partial(_ordered, order=order)),
            )  # fmt: skip
    for key, back in _BY_STRIDE:
        yield (
            "QKV-HEADMAP", key, "query heads dealt to the groups by stride, not in blocks",
            "the converter numbered heads across the query groups",
            _even(partial(_heads_by_stride, back=back)),
        )  # fmt: skip
    for factor in (n for n in range(2, groups + 1) if groups % n == 0):
        yield (
            "KV-REPL", f"repeat-{factor}", f"every {factor} key and value heads are one repeated",
            "key and value heads were replicated for more ranks than there are groups",
            _even(partial(_repeated, factor=factor)),
        )  # fmt: skip
    for which in ("qk", "k", "q"):
        for way, words in (
            ("meta", "in Meta's rotary order (pairs), Hugging Face's is halves"),
            ("half", "in halves once too often, as if they had been in Meta's order"),
        ):
            yield (
                "ROPE-PERM", f"{way}-{which}", f"rows of {' and '.join(which)} are {words}",
                "rotary rows were reordered for the other convention, or not for ours",
                _even(partial(_rotary, which=which, way=way)),
            )  # fmt: skip
            if groups != heads and "k" in which:
                yield (
                    "ROPE-PERM", f"{way}-{which}-wrong-heads",
                    f"rows of {' and '.join(which)} are {words}; k as if it had {heads} heads",
                    "k was reordered with the number of query heads, not of its own",
                    _even(partial(_rotary, which=which, way=way, wrong=True)),
                )  # fmt: skip


def _qkv_rows(c: ModelConfig) -> tuple[int, int]:
    """Return the rows of q, and those of k or v."""
    return c.num_attention_heads * c.kv_channels, c.num_query_groups * c.kv_channels


def _query_rows(c: ModelConfig) -> int:
    return _qkv_rows(c)[0]


def _fused_rows(c: ModelConfig) -> int:
    q, kv = _qkv_rows(c)
    return q + 2 * kv


def _even(rows: Rows, size: Callable[[ModelConfig], int] = _fused_rows) -> Partition:
    """Return the partition that splits the rows of the whole model evenly over the ranks.

    `size` returns how many rows there are.
    """

    def partition(c: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        per_rank = size(c) // tp
        return crop_slices(rows(c), rank * per_rank, (rank + 1) * per_rank)

    return partition


def _flat(c: ModelConfig) -> list[Slice]:
    """Return [Q; K; V] of the whole model."""
    q, kv = _qkv_rows(c)
    return [Slice(0, 0, q), Slice(1, 0, kv), Slice(2, 0, kv)]


def _flat_per_rank(c: ModelConfig, tp: int, rank: int) -> list[Slice]:
    """Return [Q; K; V] of a rank's heads."""
    return [
        Slice(source, rank * size // tp, (rank + 1) * size // tp)
        for source, size in enumerate((_qkv_rows(c)[0], _qkv_rows(c)[1], _qkv_rows(c)[1]))
    ]


def _grouped(c: ModelConfig, count: int) -> list[Slice]:
    """Return [q; k; v] of each group, as if there were `count` groups."""
    q, kv = _qkv_rows(c)
    return [
        Slice(source, g * size // count, (g + 1) * size // count)
        for g in range(count)
        for source, size in enumerate((q, kv, kv))
    ]


def _ordered(c: ModelConfig, order: tuple[int, ...]) -> list[Slice]:
    """Return q, k and v of each group in another order."""
    q, kv = _qkv_rows(c)
    groups, sizes = c.num_query_groups, (q, kv, kv)
    return [
        Slice(source, g * sizes[source] // groups, (g + 1) * sizes[source] // groups)
        for g in range(groups)
        for source in order
    ]


def _legacy(c: ModelConfig) -> Iterator[Slice]:
    """Yield the rows as checkpoint version 1 stores them: those of a group's heads alternate.

    `view(groups, heads_per_group + 2, d).transpose(1, 2)` of the rows of version 3, the inverse of
    `fix_query_key_value_ordering` in Megatron-LM.
    """
    d, per_group = c.kv_channels, c.heads_per_group
    for g in range(c.num_query_groups):
        for i in range(d):
            for head in range(per_group):
                row = (g * per_group + head) * d + i
                yield Slice(0, row, row + 1)
            for source in (1, 2):
                yield Slice(source, g * d + i, g * d + i + 1)


def _strided(c: ModelConfig, *, back: bool) -> list[int]:
    """Return the heads assigned to the groups by stride; with `back`, the inverse order."""
    groups, per_group = c.num_query_groups, c.heads_per_group
    if back:
        return [g * per_group + j for j in range(per_group) for g in range(groups)]
    return [j * groups + g for g in range(groups) for j in range(per_group)]


def _heads_by_stride(c: ModelConfig, *, back: bool) -> list[Slice]:
    """Return [q; k; v] of each group with the query heads of `_strided`."""
    d, per_group = c.kv_channels, c.heads_per_group
    heads = _strided(c, back=back)
    rows = []
    for g in range(c.num_query_groups):
        own = heads[g * per_group : (g + 1) * per_group]
        rows += [Slice(0, head * d, (head + 1) * d) for head in own]
        rows += [Slice(source, g * d, (g + 1) * d) for source in (1, 2)]
    return rows


def _strided_columns(c: ModelConfig, *, back: bool) -> list[Slice]:
    """Return the columns of the output projection in the order of `_strided`."""
    d = c.kv_channels
    return [Slice(0, head * d, (head + 1) * d) for head in _strided(c, back=back)]


def _repeated(c: ModelConfig, factor: int) -> list[Slice]:
    """Return the right order with each `factor` key and value heads replaced by the first one."""
    return [
        replace(part, start=first, stop=first + part.stop - part.start) if part.source else part
        for part in _ordered(c, (0, 1, 2))
        for d in [c.kv_channels]
        for first in [part.start // d // factor * factor * d]
    ]


def _rotary(c: ModelConfig, which: str, way: str, *, wrong: bool = False) -> Iterator[Slice]:
    """Yield q and k in Meta's rotary order (`way` "meta"), or that order undone once too often.

    Meta's order of Hugging Face's rows is `view(heads, 2, d // 2).transpose(1, 2)`, the inverse of
    `permute` in transformers' convert_llama_weights_to_hf.py. With `wrong`, k is reordered as if it
    had as many heads as q.
    """
    q, kv = _qkv_rows(c)
    orders: list[list[int]] = []
    for letter, size, heads in (
        ("q", q, c.num_attention_heads),
        ("k", kv, c.num_attention_heads if wrong else c.num_query_groups),
        ("v", kv, c.num_query_groups),
    ):
        d = size // heads
        if letter not in which or d % 2 or size % heads:  # such a view cannot be made
            orders.append(list(range(size)))
        elif way == "meta":
            orders.append([h + half * d // 2 + i for h in range(0, size, d)
                           for i in range(d // 2) for half in (0, 1)])  # fmt: skip
        else:
            orders.append([h + 2 * i + half for h in range(0, size, d)
                           for half in (0, 1) for i in range(d // 2)])  # fmt: skip
    return joined_rows(
        (part.source, orders[part.source][row])
        for part in _ordered(c, (0, 1, 2))
        for row in range(part.start, part.stop)
    )


def joined_rows(rows: Iterable[tuple[int, int]]) -> Iterator[Slice]:
    """Yield (source, row) pairs as slices, rows that follow each other as one."""
    source, start, stop = -1, 0, 0
    for next_source, row in rows:
        if (next_source, row) == (source, stop):
            stop += 1
            continue
        if start < stop:
            yield Slice(source, start, stop)
        source, start, stop = next_source, row, row + 1
    if start < stop:
        yield Slice(source, start, stop)
