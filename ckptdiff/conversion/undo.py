"""Take a fault out of a checkpoint: its tensors, read the way that they were wrongly written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.base import fill_template, split_name
from ckptdiff.arch.mistakes import mistakes
from ckptdiff.arch.naming import split_native
from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.errors import BadArgument
from ckptdiff.resharding.shard_pairs import shard_grid, shard_pairs, with_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair


def undone(side: Assembled, remaps: Sequence[Remap]) -> Assembled:
    """Return a side with faults taken out, the last first: it is assembled from other places.

    Raises BadArgument if one does not fit the checkpoint.
    """
    for remap in reversed(remaps):
        side = _undone(side, remap)
    return side


def _undone(side: Assembled, remap: Remap) -> Assembled:
    grid = shard_grid(side, side)
    if grid is None:
        raise BadArgument(
            f"{remap.kind} cannot be undone: no rules are known for {side.checkpoint.root}"
        )
    held = {(p.name, p.share.rank): p for p in shard_pairs(grid) if not p.is_copy}
    parts: dict[str, list[RecipePart]] = defaultdict(list)
    ordered: dict[str, Assembly] = {}
    wanted = remap.split_names()
    found_any = False
    for place in held.values():
        if split_native(place.name) not in wanted:
            continue
        found_any = True
        if remap.rows:
            found = (side.tensors[name] for name in place.share.hf)
            ordered.update((was.name, _in_order(was, remap)) for was in found)
            continue
        home = held.get(_home(place, remap))
        if home is None:
            raise BadArgument(
                f"{remap.kind} cannot be undone: {place.name} has no such place to come from"
            )
        for source, of, box in _pieces(home, remap, grid):
            if source is not None:
                parts[source].append(RecipePart(place.stored or place.actual, box, of))
    if not found_any:
        raise BadArgument(
            f"{remap.kind} cannot be undone: none of its tensors is in {side.checkpoint.root}"
        )
    tensors = {**side.tensors, **ordered}
    for name, filled in parts.items():
        was = side.tensors[name]
        transposed = grid.architecture.stores_transposed(split_name(name)[0])
        shape = was.shape[::-1] if transposed else was.shape
        made = compose(name, shape, was.dtype, filled)
        tensors[name] = _kept(was, transpose(made) if transposed or remap.transposed else made)
    return replace(side, tensors=tensors)


def _home(place: ShardPair, remap: Remap) -> tuple[str, int]:
    """Return the place whose content this one holds."""
    key, indices = split_native(place.name)
    numbers = list(indices)
    if place.layer is not None and numbers:
        numbers[0] += dict(remap.layers).get(place.layer, place.layer) - place.layer
    if place.expert is not None:
        numbers[-1] = dict(remap.experts).get(place.expert, place.expert)
    name = fill_template(dict(remap.names).get(key, key), tuple(numbers))
    return name, dict(remap.ranks).get(place.share.rank, place.share.rank)


def _pieces(home: ShardPair, remap: Remap, grid: ShardGrid) -> list[tuple[str | None, Any, Any]]:
    """Return which boxes of which Hugging Face tensors a place's content is, as it was written."""
    if remap.written is None:
        return home.share.pieces
    size = grid.size(home.rule)
    found = mistakes(home.rule, grid.config, size)
    mistake = next((m for m in found if m.key == remap.written), None)
    if mistake is None:
        raise BadArgument(
            f"{remap.kind} cannot be undone: {home.name} cannot have been written that way"
        )
    shapes = {name: grid.b.tensors[name].shape for name in home.share.hf}
    return list(mistake.pieces(home.share.hf, shapes, grid.config, size, home.share.rank))


def _in_order(tensor: Assembly, remap: Remap) -> Assembly:
    """Return a tensor with its rows taken from where they lie, behind its end too."""
    whole = with_padding(tensor)
    rest = tuple((0, size) for size in tensor.shape[1:])
    parts, at = [], 0
    for count, start in remap.rows:
        if count < 1 or start < 0 or start + count > whole.shape[0]:
            raise BadArgument(f"{remap.kind} cannot be undone: {tensor.name} has no such rows")
        parts.append(RecipePart(whole, ((start, start + count), *rest), ((at, at + count), *rest)))
        at += count
    if at != tensor.shape[0]:
        raise BadArgument(
            f"{remap.kind} cannot be undone: {tensor.name} has another number of rows"
        )
    return compose(tensor.name, tensor.shape, tensor.dtype, parts)


def _kept(was: Assembly, made: Assembly) -> Assembly:
    return replace(was, pieces=made.pieces)
