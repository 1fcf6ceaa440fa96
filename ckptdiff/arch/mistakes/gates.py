"""Mistakes with gate and up: the rows of a gated fc1 in another order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Slice, crop_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.arch.base import Partition
    from ckptdiff.arch.mistakes.heads import MistakenOrder
    from ckptdiff.config.model import ModelConfig

    # (rows of gate, number of ranks, rank) -> the rank's [gate; up]; source 0 is gate, 1 is up
    Shard = Callable[[int, int, int], Iterable[Slice]]


def gate_mistakes(size: int, tp: int) -> Iterator[MistakenOrder]:
    """Yield the mistaken orders of `size` rows of gate and as many of up.

    The mistake may have been made with another number of ranks than the `tp` of this checkpoint:
    it was resharded since, as if the layout had been right.
    """
    yield (
        "FC1-SWAP", "up-gate", "[up; gate], not [gate; up]",
        "the converter joined gate and up in the wrong order",
        _resharded(size, tp, _exchanged),
    )  # fmt: skip
    for ranks in dict.fromkeys((tp, 2, 4, 8, 16)):
        if ranks > 1:
            yield (
                "FC1-TPLAYOUT", f"global-chunk-{ranks}",
                f"[gate; up] of the whole layer split over {ranks} ranks as one matrix",
                "some ranks hold only gate, others only up: each should hold its rows of both",
                _resharded(size, ranks, _as_one_matrix),
            )  # fmt: skip
    for ranks in (2, 4, 8, 16):
        yield (
            "FC1-TPLAYOUT", f"merged-{ranks}",
            f"[gate; up] of {ranks} ranks joined rank by rank and read as one [gate; up]",
            "the ranks' shards were concatenated without taking gate and up apart first",
            partial(_merged, size=size, ranks=ranks),
        )  # fmt: skip
    for block in (1, 32, 2, 4, 8, 16, 64, 128):
        what = "row by row" if block == 1 else f"in blocks of {block} rows"
        for ranks in dict.fromkeys((tp, 1, 2, 4, 8, 16)):
            yield (
                "FC1-INTERLEAVE", f"interleaved-{block}" + f"-{ranks}" * (ranks != tp),
                f"gate and up take turns {what}",
                "a layout for fused kernels was written into a plain checkpoint",
                _resharded(size, ranks, partial(_interleaved, block=block)),
            )  # fmt: skip


def _resharded(size: int, ranks: int, shard: Shard) -> Partition:
    """Return the partition of shards written by `ranks`, then resharded to another TP.

    `shard` gives the rows that each of them wrote. The reader takes the upper half of each shard
    for gate and the lower half for up.
    """

    def partition(_: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        if size % ranks or size % tp:
            return
        own, written = size // tp, size // ranks  # rows of gate in a shard
        for half in (0, written):
            for writer in range(ranks):
                start = max(rank * own - writer * written, 0)
                stop = min((rank + 1) * own - writer * written, written)
                if start < stop:
                    yield from crop_slices(shard(size, ranks, writer), half + start, half + stop)

    return partition


def _exchanged(size: int, ranks: int, rank: int) -> list[Slice]:
    """Return a rank's [up; gate]."""
    start, stop = rank * size // ranks, (rank + 1) * size // ranks
    return [Slice(1, start, stop), Slice(0, start, stop)]


def _as_one_matrix(size: int, ranks: int, rank: int) -> Iterator[Slice]:
    """Return a rank's rows of the whole model's [gate; up]."""
    rows = 2 * size // ranks
    return crop_slices([Slice(0, 0, size), Slice(1, 0, size)], rank * rows, (rank + 1) * rows)


def _interleaved(size: int, ranks: int, rank: int, *, block: int) -> Iterable[Slice]:
    """Return a rank's gate and up in alternate blocks of rows."""
    start, stop = rank * size // ranks, (rank + 1) * size // ranks
    if (stop - start) % block:
        return []
    return (
        Slice(source, row, row + block) for row in range(start, stop, block) for source in (0, 1)
    )


def _merged(_: ModelConfig, tp: int, rank: int, *, size: int, ranks: int) -> list[Slice]:
    """Return a rank's rows when [g0; u0; g1; u1; …] of `ranks` is taken for [gate; up]."""
    if size % ranks or size % tp:
        return []
    written, own = size // ranks, size // tp
    merged = [
        Slice(source, r * written, (r + 1) * written) for r in range(ranks) for source in (0, 1)
    ]
    return [
        *crop_slices(merged, rank * own, (rank + 1) * own),
        *crop_slices(merged, size + rank * own, size + (rank + 1) * own),
    ]
