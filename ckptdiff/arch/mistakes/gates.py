"""How gate and up are got wrong: the rows of a gated layer in another order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Slice, crop_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.arch.base import Partition
    from ckptdiff.arch.mistakes.heads import Made
    from ckptdiff.config.model import ModelConfig

    Shard = Callable[[int, int, int], Iterable[Slice]]  # (rows of gate, ranks, rank)


def gate_mistakes(size: int, tp: int) -> Iterator[Made]:
    """Yield the orders that `size` rows of gate and as many of up were put in.

    What a writer did for another number of ranks is looked for too, as it is read by now.
    """
    yield (
        "FC1-SWAP", "up-gate", "up above gate, not gate above up", "the two halves were exchanged",
        _read(size, tp, _exchanged),
    )  # fmt: skip
    for ranks in dict.fromkeys((tp, 2, 4, 8, 16)):
        if ranks > 1:
            yield (
                "FC1-TPLAYOUT", f"global-chunk-{ranks}",
                f"[gate; up] of the whole model cut over {ranks} ranks",
                "the fused matrix was cut as one: some ranks hold only gate, others only up",
                _read(size, ranks, _as_one),
            )  # fmt: skip
    for ranks in (2, 4, 8, 16):
        yield (
            "FC1-TPLAYOUT", f"merged-{ranks}",
            f"gate and up of {ranks} ranks joined rank by rank and read as [gate; up]",
            "shards were concatenated without regard to gate and up",
            partial(_merged, size=size, ranks=ranks),
        )  # fmt: skip
    for block in (1, 32, 2, 4, 8, 16, 64, 128):
        what = "row by row" if block == 1 else f"in blocks of {block} rows"
        for ranks in dict.fromkeys((tp, 1, 2, 4, 8, 16)):
            yield (
                "FC1-INTERLEAVE", f"interleaved-{block}" + f"-{ranks}" * (ranks != tp),
                f"gate and up take turns {what}",
                "a layout for fused kernels was written into a plain checkpoint",
                _read(size, ranks, partial(_taking_turns, block=block)),
            )  # fmt: skip


def _read(size: int, ranks: int, shard: Shard) -> Partition:
    """Return the slices of what so many ranks wrote, each half of a shard taken for its kind."""

    def partition(_: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        if size % ranks or size % tp:
            return
        own, theirs = size // tp, size // ranks
        for half in (0, theirs):
            for writer in range(ranks):
                start = max(rank * own - writer * theirs, 0)
                stop = min((rank + 1) * own - writer * theirs, theirs)
                if start < stop:
                    yield from crop_slices(shard(size, ranks, writer), half + start, half + stop)

    return partition


def _exchanged(size: int, ranks: int, rank: int) -> list[Slice]:
    start, stop = rank * size // ranks, (rank + 1) * size // ranks
    return [Slice(1, start, stop), Slice(0, start, stop)]


def _as_one(size: int, ranks: int, rank: int) -> Iterator[Slice]:
    share = 2 * size // ranks
    return crop_slices([Slice(0, 0, size), Slice(1, 0, size)], rank * share, (rank + 1) * share)


def _taking_turns(size: int, ranks: int, rank: int, *, block: int) -> Iterable[Slice]:
    start, stop = rank * size // ranks, (rank + 1) * size // ranks
    if (stop - start) % block:
        return []
    return (Slice(source, at, at + block) for at in range(start, stop, block) for source in (0, 1))


def _merged(_: ModelConfig, tp: int, rank: int, *, size: int, ranks: int) -> list[Slice]:
    """Return a rank's share when [g0; u0; g1; u1; …] of others is taken for [gate; up]."""
    if size % ranks or size % tp:
        return []
    share, own = size // ranks, size // tp
    joined = [Slice(source, r * share, (r + 1) * share) for r in range(ranks) for source in (0, 1)]
    return [
        *crop_slices(joined, rank * own, (rank + 1) * own),
        *crop_slices(joined, size + rank * own, size + (rank + 1) * own),
    ]
