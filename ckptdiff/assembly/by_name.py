"""Assemble Megatron's shards without rules: each stored tensor by itself, under its own name."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.dcp_chunks import resolve_chunks
from ckptdiff.assembly.local_numbers import layer_offsets
from ckptdiff.assembly.recipe import Assembled, Assembly, LayoutError, Piece, whole_box
from ckptdiff.errors import CkptDiffError, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

_NUMBER = re.compile(r"(?<=layers\.)\d+")  # the number of a layer in a native name


def assemble_by_name(
    checkpoint: Checkpoint, named: list[tuple[Shard, SplitNames]], why: str
) -> Assembled:
    """Return every stored tensor as a canonical tensor of its own.

    Layers are numbered over the whole model. A name that several ranks hold gets the rank as a
    suffix: without a rule these may be copies or slices of one tensor. `why` begins the note on the
    side: the reason why no rule is used.
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
    """Return stored tensors by name, and why some cannot be read; `wanted` is asked for each."""
    try:
        offsets = layer_offsets(checkpoint, named)
    except UnsupportedLayout:
        offsets = {}
    stored: dict[str, list[tuple[TensorRef, Shard]]] = defaultdict(list)
    for shard, names in named:
        first_layer = offsets.get((shard.rank.pp, shard.chunk), 0)
        for ((key, _), ref), native in zip(names, shard.tensors, strict=True):
            if not wanted(native):
                continue
            number = _NUMBER.search(native) if key.startswith(DECODER_LAYER) else None
            name = native
            if number is not None:
                layer = int(number[0]) + first_layer
                name = f"{native[: number.start()]}{layer}{native[number.end() :]}"
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


def _shard_text(shard: Shard) -> str:
    rank = shard.rank
    numbers = (("tp", rank.tp), ("pp", rank.pp), ("ep", rank.ep), ("chunk", shard.chunk))
    return " ".join(f"{size} {index}" for size, index in numbers if index or size == "tp")
