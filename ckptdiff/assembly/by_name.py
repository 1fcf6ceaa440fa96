"""Assemble Megatron's shards without rules: each stored tensor by itself, under its own name."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER, is_of_local_expert
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.dcp_chunks import ViewsOfWholes
from ckptdiff.assembly.derived_buffers import is_derived
from ckptdiff.assembly.local_numbers import experts_per_rank, layer_offsets, shards_by_split_names
from ckptdiff.assembly.recipe import Assembled, Assembly, LayoutError, Piece, whole_box
from ckptdiff.errors import CkptDiffError, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

NO_RULES = "no rules know its names"  # begins the note on a side that no family's rules read
_OF_RANK = re.compile(r" \[tp (\d+)([^]]*)\]$")  # behind a name that several ranks hold
_OF_RANKS = re.compile(r" \[(?:tp|pp|ep|chunk) \d[^]]*\]$")

# The numbers of a layer and of an expert in a native name.
_LAYER = re.compile(r"(?<=layers\.)\d+")
_EXPERT = re.compile(r"(?<=experts\.)\d+|(?<=fc[12]\.weight)\d+|(?<=fc[12]\.bias)\d+")


def assemble_by_name(
    checkpoint: Checkpoint, named: list[tuple[Shard, SplitNames]], why: str
) -> Assembled:
    """Return every stored tensor as a canonical tensor of its own.

    `why` begins the note on the side: the reason why no rule is used.
    """
    tensors, errors = tensors_by_name(checkpoint, named)
    note = f"{why}: each stored tensor is taken by itself"
    return Assembled(
        checkpoint,
        None,
        None,
        put_in_model_order(tensors, None),
        unmapped=(),
        errors=errors,
        notes=(note,),
    )


def tensors_by_name(
    checkpoint: Checkpoint,
    named: list[tuple[Shard, SplitNames]],
    wanted: Callable[[str], bool] = lambda _native: True,
) -> tuple[dict[str, Assembly], dict[str, LayoutError]]:
    """Return every stored tensor by itself, and why some cannot be read.

    Layers and experts are numbered over the whole model. A name that several ranks hold gets the
    rank as a suffix, as in `x [tp 0 ep 1]`: without a rule these may be copies or slices of one
    tensor. `wanted` is asked for each native name.
    """
    try:
        offsets = layer_offsets(checkpoint, named)
    except UnsupportedLayout:
        offsets = {}
    per_rank = experts_per_rank(named)
    stored: dict[str, list[tuple[TensorRef, Shard]]] = defaultdict(list)
    for shard, names in named:
        first_layer = offsets.get((shard.rank.pp, shard.chunk), 0)
        for ((key, _), ref), native in zip(names, shard.tensors, strict=True):
            if not wanted(native):
                continue
            name = native
            if key.startswith(DECODER_LAYER):
                name = _renumbered(name, _LAYER, first_layer)
            if is_of_local_expert(key):
                name = _renumbered(name, _EXPERT, shard.rank.ep * per_rank)
            stored[name].append((ref, shard))
    tensors: dict[str, Assembly] = {}
    errors: dict[str, LayoutError] = {}
    views = ViewsOfWholes(checkpoint)
    for name, found in stored.items():
        labels = _labels(name, [shard for _, shard in found])
        for label, (ref, shard) in zip(labels, found, strict=True):
            rank = shard.rank
            whole = whole_box(ref)
            assembly = Assembly(label, ref.shape, ref.dtype, (Piece(ref, rank, whole, whole),))
            try:
                tensors[label] = views.resolved(assembly)
            except CkptDiffError as error:
                errors[label] = LayoutError(str(error))
    return tensors, errors


def _renumbered(name: str, pattern: re.Pattern[str], start: int) -> str:
    """Return a native name with a number counted from `start`, if it has that number."""
    number = pattern.search(name)
    if number is None:
        return name
    return f"{name[: number.start()]}{int(number[0]) + start}{name[number.end() :]}"


def unused_tensors(side: Assembled) -> dict[str, Assembly]:
    """Return the stored tensors of Megatron's files that no tensor of the side is made of."""
    if side.checkpoint.convention != "megatron":
        return {}
    pieces = [p for t in side.tensors.values() for p in (*t.pieces, *t.padding)]
    used = {ref.name for p in pieces for ref in (p.ref, *(copy.ref for copy in p.copies))}
    unused = {
        native
        for shard in side.checkpoint.shards
        for native, ref in shard.tensors.items()
        if ref.name not in used and not is_derived(native)
    }
    if not unused:
        return {}
    named = shards_by_split_names(side.checkpoint)
    return tensors_by_name(side.checkpoint, named, unused.__contains__)[0]


def shards_of_one_name(labels: Iterable[str]) -> dict[str, list[str]]:
    """Return the labels of what the TP ranks hold under one name, by the name of the whole.

    Where other ranks hold that name too, theirs make a whole of their own, as `x [ep 1]`. Expert
    ranks that hold a part of it each, as with ETP below TP, make one whole together.
    """
    found: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for label in labels:
        of_rank = _OF_RANK.search(label)
        if of_rank is not None:
            name, others = label[: of_rank.start()], of_rank[2].strip()
            found[name][others][int(of_rank[1])] = label
    wholes: dict[str, list[str]] = {}
    for name, by_rank in found.items():
        groups = {others: ranks for others, ranks in by_rank.items() if _is_whole(ranks)}
        if all(others.startswith("ep ") for others in by_rank if others) and (
            not groups or max(map(len, groups.values())) < len(set().union(*by_rank.values()))
        ):
            together: dict[int, str] = {}
            for ranks in by_rank.values():
                together = {**ranks, **together}
            groups = {"": together} if _is_whole(together) else {}
        for others, ranks in groups.items():
            wholes[f"{name} [{others}]" if others else name] = [ranks[r] for r in sorted(ranks)]
    return wholes


def _is_whole(ranks: Collection[int]) -> bool:
    return len(ranks) > 1 and set(ranks) == set(range(len(ranks)))


def name_without_rank(label: str) -> str:
    """Return a name without the rank that `tensors_by_name` and `shards_of_one_name` put behind."""
    return _OF_RANKS.sub("", label)


def _labels(name: str, shards: list[Shard]) -> list[str]:
    """Return a label for each shard that holds a name: the name, and what tells the ranks apart."""
    if len(shards) == 1:
        return [name]
    ranks = [{"tp": s.rank.tp, "pp": s.rank.pp, "ep": s.rank.ep, "chunk": s.chunk} for s in shards]
    vary = {size for size in ranks[0] if len({rank[size] for rank in ranks}) > 1}
    texts = (
        " ".join(f"{size} {i}" for size, i in rank.items() if size == "tp" or (i and size in vary))
        for rank in ranks
    )
    return [f"{name} [{text}]" for text in texts]
