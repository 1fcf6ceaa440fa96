"""Take a fault out of a checkpoint: read its tensors the way they were wrongly written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.mistakes import mistakes
from ckptdiff.arch.naming import split_native
from ckptdiff.arch.templates import fill_template, split_name
from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.errors import BadArgument
from ckptdiff.resharding.shard_pairs import shard_grid, shard_pairs, with_padding
from ckptdiff.text import format_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair


def undone(side: Assembled, remaps: Sequence[Remap]) -> Assembled:
    """Return a side assembled without the faults of `remaps`, the last one undone first.

    Only recipes change, no tensor is read. Raises BadArgument if a remap does not fit.
    """
    for remap in reversed(remaps):
        side = _undone(side, remap)
    return side


def _undone(side: Assembled, remap: Remap) -> Assembled:
    """Return a side without one fault: tensors are filled from the shards that hold them."""
    grid = shard_grid(side, side)
    if grid is None:
        raise BadArgument(
            f"{remap.kind} cannot be undone: no rules are known for {side.checkpoint.root}"
        )
    by_home = {(p.name, p.tp_rank): p for p in shard_pairs(grid) if not p.is_copy}
    parts: dict[str, list[RecipePart]] = defaultdict(list)
    ordered: dict[str, Assembly] = {}
    wanted = remap.split_names()
    found_any = False
    for pair in by_home.values():
        if split_native(pair.name) not in wanted:
            continue
        found_any = True
        if remap.rows:
            tensors = (side.tensors[name] for name in pair.hf_names)
            ordered.update((was.name, _in_order(was, remap)) for was in tensors)
            continue
        home = by_home.get(_home(pair, remap))
        if home is None:
            raise BadArgument(
                f"{remap.kind} cannot be undone: {pair.name} has no such place to come from"
            )
        _check_shape(pair, home, remap, side.tensors)
        for source, of, box in _pieces(home, remap, grid):
            if source is not None:
                parts[source].append(RecipePart(pair.stored or pair.actual, box, of))
    if not found_any:
        raise BadArgument(
            f"{remap.kind} cannot be undone: none of its tensors is in {side.checkpoint.root}"
        )
    mended = {**side.tensors, **ordered}
    for name, sources in parts.items():
        was = side.tensors[name]
        transposed = grid.architecture.stores_transposed(split_name(name)[0])
        shape = was.shape[::-1] if transposed else was.shape
        made = compose(name, shape, was.dtype, sources)
        mended[name] = _with_pieces(
            was, transpose(made) if transposed or remap.transposed else made
        )
    return replace(side, tensors=mended)


def _check_shape(
    pair: ShardPair, home: ShardPair, remap: Remap, tensors: Mapping[str, Assembly]
) -> None:
    """Raise BadArgument if a shard cannot hold what it is said to hold."""
    held, wanted = ((p.stored or p.actual).shape for p in (pair, home))
    if held != wanted:
        raise BadArgument(
            f"{remap.kind} cannot be undone: {pair.name} is {format_shape(held)}, "
            f"{home.name} is {format_shape(wanted)}"
        )
    shapes = [tensors[name].shape for name in pair.hf_names]
    if remap.transposed and any(len(s) != 2 or s[0] != s[1] for s in shapes):
        raise BadArgument(f"{remap.kind} cannot be undone: {pair.name} is no square matrix")


def _home(pair: ShardPair, remap: Remap) -> tuple[str, int]:
    """Return (native name, TP rank) of the shard whose content this one holds."""
    key, indices = split_native(pair.name)
    numbers = list(indices)
    if pair.layer is not None and numbers:
        numbers[0] += dict(remap.layers).get(pair.layer, pair.layer) - pair.layer
    if pair.expert is not None:
        numbers[-1] = dict(remap.experts).get(pair.expert, pair.expert)
    name = fill_template(dict(remap.names).get(key, key), tuple(numbers))
    return name, dict(remap.ranks).get(pair.tp_rank, pair.tp_rank)


def _pieces(home: ShardPair, remap: Remap, grid: ShardGrid) -> list[tuple[str | None, Any, Any]]:
    """Return the boxes of Hugging Face tensors that were written into the shard `home`.

    As in `RankSlice.pieces`: source name, box of the source, box of the shard.
    """
    if remap.written is None:
        return home.rank_slice.pieces
    size = grid.size(home.rule)
    found = mistakes(home.rule, grid.config, size)
    mistake = next((m for m in found if m.key == remap.written), None)
    if mistake is None:
        raise BadArgument(
            f"{remap.kind} cannot be undone: {home.name} cannot have been written that way"
        )
    shapes = {name: grid.b.tensors[name].shape for name in home.hf_names}
    return list(mistake.pieces(home.hf_names, shapes, grid.config, size, home.tp_rank))


def _in_order(tensor: Assembly, remap: Remap) -> Assembly:
    """Return a tensor with its rows in order; some may lie in the padding behind its end."""
    whole = with_padding(tensor)
    rest = tuple((0, size) for size in tensor.shape[1:])
    parts, filled = [], 0
    for count, start in remap.rows:
        if count < 1 or start < 0 or start + count > whole.shape[0]:
            raise BadArgument(f"{remap.kind} cannot be undone: {tensor.name} has no such rows")
        parts.append(
            RecipePart(whole, ((start, start + count), *rest), ((filled, filled + count), *rest))
        )
        filled += count
    if filled != tensor.shape[0]:
        raise BadArgument(
            f"{remap.kind} cannot be undone: {tensor.name} has another number of rows"
        )
    return compose(tensor.name, tensor.shape, tensor.dtype, parts)


def _with_pieces(was: Assembly, made: Assembly) -> Assembly:
    """Return a tensor read from other pieces; padding and the rest stay."""
    return replace(was, pieces=made.pieces)
