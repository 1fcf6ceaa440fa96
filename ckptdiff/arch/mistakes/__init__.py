"""The known mistakes of converters: rules that take other slices of the same tensors.

A mistake is read like a rule. Forward it gives the shard that a converter with this mistake writes,
backward it undoes the mistake. Sources are public issues of Megatron-LM and of other converters:
flat QKV and wrong group counts, Meta's rotary order, gate and up split as one matrix, heads
assigned by stride.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ckptdiff.arch.base import crop_slices
from ckptdiff.arch.mistakes.axes import halves_exchanged, other_axis
from ckptdiff.arch.mistakes.gates import gate_mistakes
from ckptdiff.arch.mistakes.heads import columns_by_stride, head_mistakes, joined_rows
from ckptdiff.arch.scatter import pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptdiff.arch.base import ParamMapping, Partition, Slice
    from ckptdiff.arch.mistakes.axes import Boxes
    from ckptdiff.arch.mistakes.heads import MistakenOrder
    from ckptdiff.checkpoint import Box
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.fault_classes import FaultClass


# The step of a conversion in which a mistake is made: rows of one tensor are reordered before the
# tensors are put into a layout. Of two mistakes, that of the earlier step was made first.
_STEPS = {"FC1-SWAP": 0, "ROPE-PERM": 0, "QKV-HEADMAP": 1, "QKV-SWAP": 2, "KV-REPL": 3}
_LAYOUT_STEP = 4


@dataclass(frozen=True, slots=True)
class Mistake:
    """One way to write a tensor wrongly."""

    kind: FaultClass
    key: str  # names it in the text of `--undo`; unique for a rule
    words: str  # what the tensor holds
    cause: str
    rule: ParamMapping  # partitioned with the mistake
    boxes: Boxes | None = None  # instead of the rule, where it takes boxes of two dimensions
    within: Mistake | None = None  # a mistake that was made before this one, in the same tensors

    @property
    def permutes(self) -> bool:
        """Whether every element is still there, once: the mistake can be undone."""
        return self.kind != "KV-REPL" and (self.within is None or self.within.permutes)

    def pieces(
        self,
        names: tuple[str, ...],
        shapes: Mapping[str, tuple[int, ...]],
        config: ModelConfig,
        tp: int,
        rank: int,
    ) -> Iterator[tuple[str | None, Box, Box]]:
        """Yield (source name, box of the source, box of the shard) for one rank's shard.

        `shapes` are those of the Hugging Face tensors `names`. Lazy and in order of the shard's
        rows, since some mistakes have a piece for every row. Nothing if the shapes rule it out.
        """
        if self.boxes is None:
            yield from pieces_of(self.rule, names, shapes, config, tp, rank)
            return
        (name,) = names
        shape = shapes[name][::-1] if self.rule.transposed else shapes[name]
        for of, box in self.boxes(shape, tp, rank):
            yield name, of, box


def mistakes(rule: ParamMapping, config: ModelConfig, tp: int) -> Iterator[Mistake]:
    """Yield the mistakes known for a rule, split over `tp` ranks, the likeliest first."""
    if rule.partition is None or rule.dim is None:
        return
    if rule.role == "qkv":
        sizes = _qkv_rows(config)
        for order in head_mistakes(config):
            kind = "QKV-BIAS" if rule.is_bias and order[0] == "QKV-LAYOUT" else order[0]
            yield _mistake(rule, (kind, *order[1:]), sizes)
    elif rule.role == "fc1" and rule.block_rows is not None:
        sizes = rule.block_rows(config)
        for order in gate_mistakes(sizes[0], tp):
            yield _mistake(rule, order, sizes)
    elif rule.role == "proj" and rule.dim == 1:
        for order in columns_by_stride():
            yield _mistake(rule, order, [])
    elif rule.role == "eh_proj":
        yield Mistake(
            "MTP-LAYOUT", "halves", "the halves for embedding and hidden state are exchanged",
            "the converter joined the two in the other order than Megatron does", rule,
            halves_exchanged,
        )  # fmt: skip
    elif rule.block_rows is not None:
        yield Mistake(
            "QKV-LAYOUT", "one-matrix", "all components split as one matrix",
            "a projection of several components was split over the ranks as a whole",
            replace(rule, partition=_as_one_matrix(rule)),
        )  # fmt: skip
    if len(rule.hf) == 1 and not rule.of_vocabulary and rule.block_rows is None:
        for key, boxes in other_axis(rule.dim, tp):
            yield Mistake(
                "TP-AXIS", key, "split or joined along the other dimension, then reshaped",
                "the converter took the wrong dimension to split this tensor", rule,
                boxes,
            )  # fmt: skip


def pairs_of_mistakes(rule: ParamMapping, config: ModelConfig, tp: int) -> Iterator[Mistake]:
    """Yield two mistakes made one after the other: in the order of rows, then in the layout."""
    single = [m for m in mistakes(rule, config, tp) if m.boxes is None]
    for inner in single:
        for outer in single:
            if _STEPS.get(inner.kind, _LAYOUT_STEP) < _STEPS.get(outer.kind, _LAYOUT_STEP):
                both = partial(_after, rule=rule, inner=inner.rule, outer=outer.rule)
                yield replace(outer, rule=replace(rule, partition=both), within=inner)


def _after(
    c: ModelConfig, tp: int, rank: int, *, rule: ParamMapping, inner: ParamMapping,
    outer: ParamMapping,
) -> Iterable[Slice]:  # fmt: skip
    """Return the slices of the mistake `outer`, made with tensors that `inner` had reordered."""
    right, wrong = (list(_each_row(r.partition(c, 1, 0))) for r in (rule, inner) if r.partition)
    if outer.partition is None or len(right) != len(wrong):
        return []
    held = dict(zip(right, wrong, strict=True))
    return joined_rows(held[row] for row in _each_row(outer.partition(c, tp, rank)))


def _each_row(parts: Iterable[Slice]) -> Iterator[tuple[int, int]]:
    """Yield (source, row) for each row of slices."""
    return ((part.source, row) for part in parts for row in range(part.start, part.stop))


def _mistake(rule: ParamMapping, order: MistakenOrder, sizes: list[int]) -> Mistake:
    """Return the mistake that gives a rule another order.

    `sizes` are the rows of the order's sources. If one Hugging Face tensor holds them all, slices
    are moved to where each source begins in it.
    """
    kind, key, words, cause, partition = order
    if len(rule.hf) == 1 and sizes:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        partition = _in_one_tensor(partition, starts)
    return Mistake(kind, key, words, cause, replace(rule, partition=partition))


def _in_one_tensor(partition: Partition, starts: list[int]) -> Partition:
    """Return a partition whose sources lie in one tensor, each from its start row on."""

    def shifted(c: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        for part in partition(c, tp, rank):
            start = starts[part.source]
            yield replace(part, source=0, start=part.start + start, stop=part.stop + start)

    return shifted


def _qkv_rows(c: ModelConfig) -> list[int]:
    """Return the rows of q, k and v."""
    kv = c.num_query_groups * c.kv_channels
    return [c.num_attention_heads * c.kv_channels, kv, kv]


def _as_one_matrix(rule: ParamMapping) -> Partition:
    """Return the partition that splits all components of a rule as one matrix."""

    def partition(c: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        assert rule.partition is not None
        whole = list(rule.partition(c, 1, 0))
        rows = sum(part.stop - part.start for part in whole) // tp
        return crop_slices(whole, rank * rows, (rank + 1) * rows)

    return partition
