"""Assemble Megatron's shards without rules: each stored tensor by itself, under its own name."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER, is_of_local_expert, split_native
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.dcp_chunks import resolve_chunks
from ckptdiff.assembly.derived_buffers import is_derived
from ckptdiff.assembly.local_numbers import experts_per_rank, layer_offsets
from ckptdiff.assembly.recipe import Assembled, Assembly, LayoutError, Piece, whole_box
from ckptdiff.errors import CkptDiffError, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

_OF_TP_RANK = re.compile(r" \[tp (\d+)\]$")  # behind a name that several ranks hold

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
    rank as a suffix: without a rule these may be copies or slices of one tensor. `wanted` is asked
    for each native name.
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
    for name, found in stored.items():
        for ref, shard in found:
            rank = shard.rank
            label = name if len(found) == 1 else f"{name} [{_shard_text(shard)}]"
            whole = whole_box(ref)
            assembly = Assembly(label, ref.shape, ref.dtype, (Piece(ref, rank, whole, whole),))
            try:
                tensors[label] = resolve_chunks(assembly, checkpoint)
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
    named = [
        (shard, [(split_native(native), ref) for native, ref in shard.tensors.items()])
        for shard in side.checkpoint.shards
    ]
    return tensors_by_name(side.checkpoint, named, unused.__contains__)[0]


def shards_of_one_name(labels: Iterable[str]) -> dict[str, list[str]]:
    """Return the labels of the tensors that each TP rank holds under one name, by that name."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for label in labels:
        of_rank = _OF_TP_RANK.search(label)
        if of_rank is not None:
            found[label[: of_rank.start()]][int(of_rank[1])] = label
    return {
        name: [ranks[r] for r in range(len(ranks))]
        for name, ranks in found.items()
        if ranks.keys() == set(range(len(ranks)))
    }


def _shard_text(shard: Shard) -> str:
    rank = shard.rank
    numbers = (("tp", rank.tp), ("pp", rank.pp), ("ep", rank.ep), ("chunk", shard.chunk))
    return " ".join(f"{size} {index}" for size, index in numbers if index or size == "tp")
