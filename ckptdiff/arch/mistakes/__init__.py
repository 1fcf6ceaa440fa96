"""Ways in which a rule is known to be got wrong: other slices of the same tensors.

Each is read like the rule itself. Forward it says what a writer with this mistake puts into a
rank's shard, backward it takes the mistake out again. The public record that they come from names
the projects in which each was found: flat QKV and wrong group counts in Megatron-LM's and other
converters, Meta's rotary order, gate and up cut as one matrix, heads assigned by stride.
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
    from ckptdiff.arch.mistakes.heads import Made
    from ckptdiff.checkpoint import Box
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.fault_classes import FaultClass


# Of two mistakes the one of an order inside the tensors is taken for the first that was made, that
# of the layout which they are put into for the last.
_STEPS = {"FC1-SWAP": 0, "ROPE-PERM": 0, "QKV-HEADMAP": 1, "QKV-SWAP": 2, "KV-REPL": 3}
_LAYOUT = 4


@dataclass(frozen=True, slots=True)
class Mistake:
    """One way to write a tensor wrongly."""

    found: FaultClass
    key: str  # its name in a SPEC
    words: str  # what the tensor holds
    cause: str
    rule: ParamMapping  # with the slices of the mistake
    boxes: Boxes | None = None  # where slices along one dimension cannot say it
    within: Mistake | None = None  # another one that was made before, with the same tensors

    @property
    def permutes(self) -> bool:
        """Whether all the numbers are still there, each once."""
        return self.found != "KV-REPL" and (self.within is None or self.within.permutes)

    def pieces(
        self,
        names: tuple[str, ...],
        shapes: Mapping[str, tuple[int, ...]],
        config: ModelConfig,
        tp: int,
        rank: int,
    ) -> Iterator[tuple[str | None, Box, Box]]:
        """Yield which boxes of which tensors fill a rank's shard; nothing if it cannot be.

        One by one, from the first row on: some layouts have a piece for every row.
        """
        if self.boxes is None:
            yield from pieces_of(self.rule, names, shapes, config, tp, rank)
            return
        (name,) = names
        shape = shapes[name][::-1] if self.rule.transposed else shapes[name]
        for of, box in self.boxes(shape, tp, rank):
            yield name, of, box


def mistakes(rule: ParamMapping, config: ModelConfig, tp: int) -> Iterator[Mistake]:
    """Yield the mistakes that can be made with a rule, the likelier ones first."""
    if rule.partition is None or rule.dim is None:
        return
    if rule.role == "qkv":
        sizes = _lengths(config)
        for made in head_mistakes(config):
            named = "QKV-BIAS" if rule.is_bias and made[0] == "QKV-LAYOUT" else made[0]
            yield _mistake(rule, (named, *made[1:]), sizes)
    elif rule.role == "fc1" and rule.block_rows is not None:
        sizes = rule.block_rows(config)
        for made in gate_mistakes(sizes[0], tp):
            yield _mistake(rule, made, sizes)
    elif rule.role == "proj" and rule.dim == 1:
        for made in columns_by_stride():
            yield _mistake(rule, made, [])
    elif rule.role == "eh_proj":
        yield Mistake(
            "MTP-LAYOUT", "halves", "the halves for embedding and hidden state are exchanged",
            "the order in which the two are joined was guessed", rule, halves_exchanged,
        )  # fmt: skip
    elif rule.block_rows is not None:
        yield Mistake(
            "QKV-LAYOUT", "one-matrix", "all components cut as one matrix",
            "a projection of several components was cut without regard to them",
            replace(rule, partition=_as_one(rule)),
        )  # fmt: skip
    if len(rule.hf) == 1 and not rule.of_vocabulary and rule.block_rows is None:
        dim = rule.dim
        for key, boxes in other_axis(dim, tp):
            yield Mistake(
                "TP-AXIS", key, "cut or joined along the other dimension, then reshaped",
                "the dimension along which the tensor is cut was taken for the other one", rule,
                boxes,
            )  # fmt: skip


def pairs_of_mistakes(rule: ParamMapping, config: ModelConfig, tp: int) -> Iterator[Mistake]:
    """Yield two mistakes at once: one in the order of each tensor's rows, one in their layout."""
    made = [m for m in mistakes(rule, config, tp) if m.boxes is None]
    for inner in made:
        for outer in made:
            if _STEPS.get(inner.found, _LAYOUT) < _STEPS.get(outer.found, _LAYOUT):
                both = partial(_after, rule=rule, inner=inner.rule, outer=outer.rule)
                yield replace(outer, rule=replace(rule, partition=both), within=inner)


def _after(
    c: ModelConfig, tp: int, rank: int, *, rule: ParamMapping, inner: ParamMapping,
    outer: ParamMapping,
) -> Iterable[Slice]:  # fmt: skip
    """Return the slices of a mistake made with what another one had left of the tensors."""
    right, wrong = (list(_each_row(r.partition(c, 1, 0))) for r in (rule, inner) if r.partition)
    if outer.partition is None or len(right) != len(wrong):
        return []
    held = dict(zip(right, wrong, strict=True))
    return joined_rows(held[row] for row in _each_row(outer.partition(c, tp, rank)))


def _each_row(parts: Iterable[Slice]) -> Iterator[tuple[int, int]]:
    return ((part.source, row) for part in parts for row in range(part.start, part.stop))


def _mistake(rule: ParamMapping, made: Made, sizes: list[int]) -> Mistake:
    """Return a mistake with a rule; where one tensor holds what the slices speak of, its rows."""
    found, key, words, cause, partition = made
    if len(rule.hf) == 1 and sizes:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        partition = _within(partition, starts)
    return Mistake(found, key, words, cause, replace(rule, partition=partition))


def _within(partition: Partition, starts: list[int]) -> Partition:
    def shifted(c: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        for part in partition(c, tp, rank):
            start = starts[part.source]
            yield replace(part, source=0, start=part.start + start, stop=part.stop + start)

    return shifted


def _lengths(c: ModelConfig) -> list[int]:
    keys = c.num_query_groups * c.kv_channels
    return [c.num_attention_heads * c.kv_channels, keys, keys]


def _as_one(rule: ParamMapping) -> Partition:
    def partition(c: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        assert rule.partition is not None
        whole = list(rule.partition(c, 1, 0))
        share = sum(part.stop - part.start for part in whole) // tp
        return crop_slices(whole, rank * share, (rank + 1) * share)

    return partition
