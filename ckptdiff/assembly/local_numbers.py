"""Number a rank's layers and experts over the whole model: each rank counts its own from 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.naming import DECODER_LAYER, is_of_local_expert, split_native
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef

    # Each native name as `split_native` splits it, and its ref.
    SplitNames = list[tuple[tuple[str, tuple[int, ...]], TensorRef]]


def shards_by_split_names(checkpoint: Checkpoint) -> list[tuple[Shard, SplitNames]]:
    """Return each shard with its tensors, in its order, by template and numbers of their names."""
    return [
        (shard, [(split_native(native), ref) for native, ref in shard.tensors.items()])
        for shard in checkpoint.shards
    ]


def experts_per_rank(named: list[tuple[Shard, SplitNames]]) -> int:
    """Return how many routed experts a rank holds, counted in the names of its tensors."""
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
    """Return, for each (pipeline stage, virtual chunk), how many layers come before its layer 0.

    Layers are counted in the files: chunk 0 of every stage, then chunk 1 of every stage. If files
    hold fewer than the args count and even stages can have held them, stages are taken as even. In
    a distributed checkpoint layers are numbered over the whole model already. Raises
    UnsupportedLayout if ranks of one stage hold different layers, or do not number them from 0.
    """
    if checkpoint.chunks is not None:
        return {(shard.rank.pp, shard.chunk): 0 for shard, _ in named}
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
    count = 0
    even = _even_count(checkpoint, layers)
    for stage, chunk in sorted(layers, key=lambda key: (key[1], key[0])):
        offsets[stage, chunk] = count
        count += even or len(layers[stage, chunk])
    return offsets


def _even_count(checkpoint: Checkpoint, layers: Mapping[tuple[int, int], set[int]]) -> int | None:
    """Return the layers of each (stage, chunk) if some are missing and all had equally many."""
    total = (checkpoint.config or {}).get("num_layers")
    held = [len(numbers) for numbers in layers.values()]
    if type(total) is not int or sum(held) >= total or total % len(held):
        return None
    each = total // len(held)
    return each if max(held) <= each else None
