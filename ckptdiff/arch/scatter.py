"""Read a family's rules forward: which parts of which Hugging Face tensors make up a shard."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.arch.base import PADDING, fill_name, split_name, template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.checkpoint import Box
    from ckptdiff.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class RankSlice:
    """One rank's shard of one Megatron tensor.

    A piece says which box of which Hugging Face tensor (None: vocabulary padding) fills which box
    of the shard. Where the rule is `transposed`, the first is a box of the tensor's transpose.
    """

    rank: int  # in expert tensor parallelism where the rule speaks of a routed expert
    name: str  # in megatron-core's local spelling, layers numbered over the whole model
    pieces: list[tuple[str | None, Box, Box]]
    rule: ParamMapping
    hf: tuple[str, ...]  # the Hugging Face names that the rule speaks of here


def scatter(
    architecture: Architecture,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    tp: int,
    etp: int | None = None,
) -> Iterator[RankSlice]:
    """Yield every rank's shard of the Hugging Face tensors `shapes`: the rules read forward.

    `etp` is over how many ranks routed experts are cut, where not over `tp`. Rules none of whose
    tensors is in `shapes` are left out. Raises UnsupportedLayout for what cannot be cut.
    """
    templates = defaultdict(list)
    for name in shapes:
        key, indices = split_name(name)
        templates[key].append(indices)
    for mapping in architecture.mappings:
        layers = architecture.layers_of(mapping, config.num_layers)
        for indices in sorted(templates.get(template(mapping.hf[0]), [])):
            if indices and indices[0] not in layers:
                continue
            if mapping.beside is not None and fill_name(mapping.beside, indices) not in shapes:
                continue
            names = tuple(fill_name(pattern, indices) for pattern in mapping.hf)
            numbers = (indices[0] - layers.start, *indices[1:]) if indices else ()
            shard = fill_name(mapping.megatron, numbers)
            ranks = etp if etp is not None and mapping.of_experts else tp
            for rank in range(ranks):
                pieces = list(pieces_of(mapping, names, shapes, config, ranks, rank))
                yield RankSlice(rank, shard, pieces, mapping, names)


def pieces_of(
    mapping: ParamMapping,
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
    tp: int,
    rank: int,
) -> Iterator[tuple[str | None, Box, Box]]:
    """Yield the pieces of one rank's shard, as in `Share`, from its first row on."""
    if mapping.transposed:
        shapes = {name: shapes[name][::-1] for name in names}
    first = tuple((0, size) for size in shapes[names[0]])
    if mapping.partition is None or mapping.dim is None:
        yield names[0], first, first
        return
    at = 0
    for part in mapping.partition(config, tp, rank):
        size = part.stop - part.start
        source = None if part.source == PADDING else names[part.source]
        whole = first if source is None else tuple((0, n) for n in shapes[source])
        yield (
            source,
            _cut(whole, mapping.dim, part.start, part.stop),
            _cut(whole, mapping.dim, at, at + size),
        )
        at += size


def _cut(whole: Box, dim: int, start: int, stop: int) -> Box:
    return (*whole[:dim], (start, stop), *whole[dim + 1 :])
