"""Read a family's rules forward: split Hugging Face tensors over tensor-parallel ranks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.arch.base import PADDING
from ckptdiff.arch.templates import fill_name, split_name, template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.checkpoint import Box
    from ckptdiff.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class RankSlice:
    """One rank's slice of one Megatron tensor, made of pieces of Hugging Face tensors.

    A piece is (name of the Hugging Face tensor, box of that tensor, box of the slice that it
    fills). The name is None for vocabulary padding. Where the rule is `transposed`, the first box
    is one of the tensor's transpose.
    """

    rank: int  # tensor-parallel rank; of a routed expert, expert-tensor-parallel rank
    name: str  # in megatron-core's local spelling, layers numbered over the whole model
    pieces: list[tuple[str | None, Box, Box]]
    rule: ParamMapping
    hf: tuple[str, ...]  # the Hugging Face tensors that the rule takes rows from


def scatter(
    architecture: Architecture,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    tp: int,
    etp: int | None = None,
) -> Iterator[RankSlice]:
    """Yield every rank's slice of every Megatron tensor that the tensors in `shapes` make up.

    `shapes` are those of the Hugging Face tensors. `etp` is the number of ranks that routed experts
    are split over; None: `tp`. Rules none of whose tensors is in `shapes` are left out. Raises
    UnsupportedLayout if a tensor cannot be split evenly.
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
            megatron_name = fill_name(mapping.megatron, numbers)
            ranks = etp if etp is not None and mapping.of_experts else tp
            for rank in range(ranks):
                pieces = list(pieces_of(mapping, names, shapes, config, ranks, rank))
                yield RankSlice(rank, megatron_name, pieces, mapping, names)


def pieces_of(
    mapping: ParamMapping,
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
    tp: int,
    rank: int,
) -> Iterator[tuple[str | None, Box, Box]]:
    """Yield the pieces of one rank's slice, as in `RankSlice.pieces`, from its first row on."""
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
            _with_range(whole, mapping.dim, part.start, part.stop),
            _with_range(whole, mapping.dim, at, at + size),
        )
        at += size


def _with_range(whole: Box, dim: int, start: int, stop: int) -> Box:
    """Return a box with `start:stop` along `dim` instead."""
    return (*whole[:dim], (start, stop), *whole[dim + 1 :])
