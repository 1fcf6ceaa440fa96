"""Layers and experts are numbered from 0 on every rank: which ones of the whole model they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER, is_of_local_expert
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

    # Native names as `split_native` splits them, and their refs.
    SplitNames = list[tuple[tuple[str, tuple[int, ...]], TensorRef]]


def experts_per_rank(named: list[tuple[Shard, SplitNames]]) -> int:
    """Return how many experts a rank holds, counted in its tensors."""
    return max(
        (
            indices[-1] + 1
            for _, names in named
            for (key, indices), _ in names
            if is_of_local_expert(key)
        ),
        default=0,
    )


def layer_offsets(
    checkpoint: Checkpoint, named: list[tuple[Shard, SplitNames]]
) -> dict[tuple[int, int], int]:
    """Return, for each (stage, virtual chunk), how many layers come before its layer 0.

    Layers are counted in the files: chunk 0 of every stage, then chunk 1 of every stage. Raises
    UnsupportedLayout where ranks of one stage hold different layers.
    """
    layers: dict[tuple[int, int], set[int]] = {}
    for shard, names in named:
        stage = shard.rank.pp
        numbers = {indices[0] for (key, indices), _ in names if key.startswith(DECODER_LAYER)}
        held = layers.setdefault((stage, shard.chunk), numbers)
        if held != numbers:
            raise UnsupportedLayout(
                f"{checkpoint.root}: tp {shard.rank.tp} of stage {stage} holds layers "
                f"{sorted(numbers)}, another rank of that stage holds {sorted(held)}"
            )
        if numbers != set(range(len(numbers))):
            raise UnsupportedLayout(
                f"{checkpoint.root}: stage {stage} holds layers {sorted(numbers)}; "
                "Megatron counts them from 0 in every stage"
            )
    offsets = {}
    before = 0
    for stage, chunk in sorted(layers, key=lambda key: (key[1], key[0])):
        offsets[stage, chunk] = before
        before += len(layers[stage, chunk])
    return offsets
