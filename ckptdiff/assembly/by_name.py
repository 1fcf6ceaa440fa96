"""Bring Megatron's shards to tensors where no rule knows them: each stored one by itself."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.dcp_chunks import placed
from ckptdiff.assembly.local_numbers import layer_offsets
from ckptdiff.assembly.recipe import Assembled, Assembly, LayoutError, Piece, whole_box
from ckptdiff.errors import CkptDiffError, UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

_NUMBER = re.compile(r"(?<=layers\.)\d+")  # of a layer, in a native name


def assemble_by_name(
    checkpoint: Checkpoint, named: list[tuple[Shard, SplitNames]], why: str
) -> Assembled:
    """No rules: every stored tensor by itself, under its own name.

    Layers are numbered over the whole model, and a name that several ranks have is told apart by
    the rank: whether those are copies or shares of one tensor nobody knows.
    """
    try:
        offsets = layer_offsets(checkpoint, named)
    except UnsupportedLayout:
        offsets = {}
    stored: dict[str, list[tuple[TensorRef, Shard]]] = defaultdict(list)
    for shard, names in named:
        before = offsets.get((shard.rank.pp, shard.chunk), 0)
        for ((key, _), ref), native in zip(names, shard.tensors, strict=True):
            number = _NUMBER.search(native) if key.startswith(DECODER_LAYER) else None
            name = native
            if number is not None:
                layer = int(number[0]) + before
                name = f"{native[: number.start()]}{layer}{native[number.end() :]}"
            stored[name].append((ref, shard))
    tensors: dict[str, Assembly] = {}
    errors: dict[str, LayoutError] = {}
    for name, found in stored.items():
        for ref, shard in found:
            rank = shard.rank
            own = name if len(found) == 1 else f"{name} [{_shard_text(shard)}]"
            whole = whole_box(ref)
            assembly = Assembly(own, ref.shape, ref.dtype, (Piece(ref, rank, whole, whole),))
            try:
                tensors[own] = placed(assembly, checkpoint)
            except CkptDiffError as error:
                errors[own] = LayoutError(str(error))
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


def _shard_text(shard: Shard) -> str:
    rank = shard.rank
    numbers = (("tp", rank.tp), ("pp", rank.pp), ("ep", rank.ep), ("chunk", shard.chunk))
    return " ".join(f"{word} {number}" for word, number in numbers if number or word == "tp")
