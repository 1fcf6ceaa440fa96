"""Rows 1, 4, 5, 6, 8 and 18: what the kernels do with files that lie in the page cache."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from math import prod
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from ckptdiff.executor import WorkerPool
from ckptdiff.kernels.views import Block, View

from . import rivals
from .data import LARGE, SMALL
from .harness import Result, Times, race, warm_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from ckptdiff.kernels.stats import Stats

    from .data import Data

JOB_BYTES = 32 << 20  # of one side
# The naive script is slower the larger the tensors are: it is timed on every fifth tensor of the
# larger checkpoint, some of each kind.
SAMPLE = slice(3, None, 5)
Job = tuple[tuple[int, int], tuple[Block, ...]]


def read_header(file: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return shape and offset of every tensor of a safetensors file, in its order."""
    with file.open("rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return {
        name: (tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def jobs(a: Path, b: Path, some: slice = slice(None)) -> list[Job]:
    """Return jobs over tensors of two files, cut as the engine does it."""
    made: list[Job] = []
    there = read_header(b)
    for name, (shape, offset) in list(read_header(a).items())[some]:
        rows, cols = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
        down = max(1, JOB_BYTES // (2 * cols))
        for row in range(0, rows, down):
            views = [
                View(
                    str(file), at + 2 * row * cols, (min(down, rows - row), cols), (cols, 1), "BF16"
                )
                for file, at in ((a, offset), (b, there[name][1]))
            ]
            made.append(((rows, cols), (Block((row, 0), *views),)))
    return made


def run_jobs(batch: Sequence[Job], keep_mapped: bool) -> list[Stats]:
    """Compare, in a worker process."""
    from ckptdiff.kernels import memory
    from ckptdiff.kernels.compare import compare_blocks

    keep = mock.patch.object(memory, "_advise", _keep) if keep_mapped else nullcontext()
    with keep:
        return [compare_blocks(shape, blocks) for shape, blocks in batch]


def _keep(*_: object) -> None:
    """Let no pages go."""


def batches(made: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in batches of about `JOB_BYTES`."""
    out: list[list[Job]] = [[]]
    held = 0
    for job in made:
        size = 2 * prod(job[1][0].a.shape)
        if out[-1] and held + size > JOB_BYTES:
            out.append([])
            held = 0
        out[-1].append(job)
        held += size
    return out


def halves(made: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in two shares of like size."""
    out: list[list[Job]] = [[], []]
    held = [0, 0]
    for job in made:
        lighter = held.index(min(held))
        out[lighter].append(job)
        held[lighter] += prod(job[1][0].a.shape)
    return out


def on_pool(
    pool: WorkerPool, split: Sequence[list[Job]], *, keep_mapped: bool = False
) -> Callable[[], object]:
    def run() -> object:
        futures = [pool.submit(run_jobs, batch, keep_mapped) for batch in split]
        return [future.result() for future in futures]

    return run


def nbytes(made: Sequence[Job]) -> int:
    """Return the bytes of both sides."""
    return sum(4 * prod(block.a.shape) for _, blocks in made for block in blocks)


def sampled(a: Path, b: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the sample of tensors of two files, in memory."""
    from safetensors import safe_open

    with safe_open(a, "pt") as one, safe_open(b, "pt") as other:
        names = list(read_header(a))[SAMPLE]
        return [(one.get_tensor(name).clone(), other.get_tensor(name).clone()) for name in names]


def rows_1_4_5_8(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time equal and differing data in worker processes against torch, in one run.

    Steady means that the workers have all pages mapped, as torch has its tensors. What mapping
    them costs is in the note, and in the rows of the whole program.
    """
    import torch

    base, same, scaled = (
        data.hf(LARGE, change) / "model.safetensors" for change in ("base", "same", "scaled")
    )
    warm_cache([base, same, scaled])
    equal, differing = jobs(base, same), jobs(base, scaled)
    some = jobs(base, scaled, SAMPLE)
    left = torch.randint(-(2**62), 2**62, (nbytes(equal) // 16,), dtype=torch.int64)
    right = left.clone()
    half = len(left) // 2
    pairs = sampled(base, scaled) if "5" in wanted else []

    def torch_equal() -> None:
        parts = [(left[:half], right[:half]), (left[half:], right[half:])]
        assert all(threads.map(lambda pair: torch.equal(*pair), parts))

    def naive() -> None:
        torch.set_num_threads(2)
        rivals.naive(pairs)
        torch.set_num_threads(1)

    torch.set_num_threads(1)
    with (
        ThreadPoolExecutor(2) as threads,
        WorkerPool(2) as two,
        WorkerPool(2) as releasing,  # workers that let pages go, as those of the program do
        WorkerPool(1) as one,
    ):
        contenders: dict[str, Callable[[], object]] = {"torch.equal": torch_equal}
        if "1" in wanted:
            contenders["equal"] = on_pool(two, halves(equal), keep_mapped=True)
            contenders["equal, mapping"] = on_pool(releasing, halves(equal))
        contenders["differing"] = on_pool(two, batches(differing), keep_mapped=True)
        contenders["differing, mapping"] = on_pool(releasing, batches(differing))
        if "5" in wanted:
            contenders["differing, sample"] = on_pool(two, batches(some), keep_mapped=True)
            contenders["naive, sample"] = naive
        if "8" in wanted:
            contenders["differing, 1 worker"] = on_pool(one, batches(differing), keep_mapped=True)
        times = race(contenders, rounds=rounds)

    def over_torch(name: str) -> float:
        return times.ratio("torch.equal", name)

    sizes = {name: nbytes(some if "sample" in name else equal) for name in contenders}
    note = _speeds(times, sizes)
    figures = {
        "1": ("equal, 2 workers, over 2-thread torch.equal of int64", over_torch("equal"), 0.90),
        "4": ("differing, 2 workers, over the same", over_torch("differing"), 0.14),
    }
    if "5" in wanted:
        ratio = times.ratio("naive, sample", "differing, sample")
        figures["5"] = ("differing, 2 workers, over naive with 2 threads", ratio, 16)
    if "8" in wanted:
        ratio = times.ratio("differing, 1 worker", "differing")
        figures["8"] = ("differing, 2 workers over 1", ratio, 1.6)
    return [
        Result(row, what, value, bar, "more", note)
        for row, (what, value, bar) in figures.items()
        if row in wanted
    ]


def _speeds(times: Times, sizes: dict[str, int]) -> str:
    speeds = ", ".join(
        f"{name} {sizes[name] / times.median(name) / 1e9:.2f}" for name in times.rounds
    )
    return f"GB/s by the median: {speeds}"


def row_6(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time the hard case: signs flip, and distances have a long tail."""
    import torch

    base, added = (data.hf(LARGE, x) / "model.safetensors" for x in ("base", "added"))
    warm_cache([base, added])
    some = jobs(base, added, SAMPLE)
    pairs = sampled(base, added)
    torch.set_num_threads(1)
    with WorkerPool(1) as pool, WorkerPool(1) as releasing:
        contenders: dict[str, Callable[[], object]] = {
            "added": on_pool(pool, batches(some), keep_mapped=True),
            "added, mapping": on_pool(releasing, batches(some)),
            "naive": lambda: rivals.naive(pairs),
        }
        times = race(contenders, rounds=rounds)
    what = "signs flip, 1 worker, over naive with 1 thread"
    note = _speeds(times, dict.fromkeys(contenders, nbytes(some)))
    return [Result("6", what, times.ratio("naive", "added"), 8, "more", note)]


def row_18(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Compare the figures of a whole checkpoint with float64 arithmetic."""
    worst, wrong = 0.0, 0
    base = data.hf(SMALL, "base") / "model.safetensors"
    for change in ("scaled", "added"):
        other = data.hf(SMALL, change) / "model.safetensors"
        raw = [np.fromfile(file, np.uint8) for file in (base, other)]
        made = jobs(base, other)
        with WorkerPool(2) as pool:
            futures = [pool.submit(run_jobs, [job], False) for job in made]
            found = [future.result()[0] for future in futures]
        for (_, (block,)), stats in zip(made, found, strict=True):
            sides = []
            for side, view in zip(raw, (block.a, block.b), strict=True):
                start, count = view.offset, prod(view.shape)
                sides.append(side[start : start + 2 * count].view(np.uint16))
            a, b = (
                (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
                for codes in sides
            )
            d = np.abs(a - b)
            sums = (
                (stats.sum_abs, d.sum()),
                (stats.sum_dd, (d * d).sum()),
                (stats.sum_aa, (a * a).sum()),
                (stats.sum_bb, (b * b).sum()),
            )
            worst = max(worst, *(abs(mine / float(true) - 1) for mine, true in sums))
            # From bits to places on one line of steps: the negative numbers count down from zero.
            places = [
                np.where(codes >> 15, -(codes & 0x7FFF).astype(np.int32), codes & 0x7FFF)
                for codes in sides
            ]
            steps = np.abs(places[0] - places[1])
            lengths = np.bincount(np.frexp(steps.astype(np.float64))[1]).tolist()
            wrong += stats.differing != int((sides[0] != sides[1]).sum())
            wrong += stats.unequal != int((a != b).sum())
            wrong += stats.max_abs != float(d.max())
            wrong += stats.max_ulp != int(steps.max())
            wrong += stats.histogram != lengths
    return [
        Result("18", "sums: worst relative error against float64", worst, 1e-5, "less"),
        Result("18", "counts, steps and maxima that are not exact", wrong, 0, "less"),
    ]
