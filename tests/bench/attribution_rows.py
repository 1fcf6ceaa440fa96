"""Whether roundings, traced one by one, predict how far apart two correct programs are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.run import compare_logits
from ckptdiff.results import LogitDiff
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf

from .harness import Result

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Budget

    from .data import Data

SEEDS = (0, 1, 2)
RANKS = (1, 2, 8)
DTYPES = ("bf16", "fp16")
TOKENS = 32
SIZE: dict[str, Any] = {
    "layers": 8,
    "hidden": 1024,
    "heads": 8,
    "groups": 8,
    "head_dim": 128,
    "ffn": 2816,
    "vocab": 4096,
}
_BAR = 0.15  # of the measured error, what a prediction may be off


def row_attribution(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Trace a random model of 111 million parameters, at all sizes, in both dtypes, by all seeds.

    Prints a table: rms over that of the exact logits, as predicted and as measured.
    """
    print("| dtype | TP | seed | transformers | megatron-core | difference | noise | causes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    off: dict[tuple[str, int], list[float]] = {}
    for seed in SEEDS:
        hf, twins = _made(data.folder / "attribution", seed)
        ids = torch.randint(
            0, SIZE["vocab"], (TOKENS,), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        for dtype in DTYPES:
            for tp, twin in twins.items():
                found = _traced(hf, twin, ids, dtype)
                assert found.budget is not None, found.notes
                off.setdefault((dtype, tp), []).extend(_off(found.budget))
                print(f"| {dtype} | {tp} | {seed} | {_cells(found)} |", flush=True)
    return [
        Result(
            "attribution",
            f"{dtype}, TP {tp}: predicted over measured error, off by",
            max(found),
            _BAR,
            "less",
            f"the most of {len(SEEDS)} seeds, of A, B and A - B",
        )
        for (dtype, tp), found in off.items()
    ]


def _made(folder: Path, seed: int) -> tuple[Path, dict[int, Path]]:
    """Return a Hugging Face folder and its Megatron twins by TP size, by the tests' own writers."""
    hf = folder / f"hf-{seed}"
    weights = make_hf(hf, seed=seed, **SIZE)
    config = json.loads((hf / "config.json").read_text())
    twins = {tp: folder / f"megatron-{seed}-{tp}" for tp in RANKS}
    for tp, twin in twins.items():
        if not twin.exists():
            make_megatron(twin, weights, config, tp=tp)
    return hf, twins


def _traced(hf: Path, megatron: Path, ids: list[int], dtype: str) -> LogitDiff:
    sides = assemble_pair(open_checkpoint(hf), open_checkpoint(megatron))
    *_, found = compare_logits(*sides, ids, InlineExecutor(), storage=dtype, attribute=True)
    assert isinstance(found, LogitDiff)
    return found


def _off(budget: Budget) -> list[float]:
    pairs = zip(budget.predicted, budget.measured, strict=True)
    return [abs(predicted / measured - 1) for predicted, measured in pairs]


def _cells(found: LogitDiff) -> str:
    assert found.budget is not None
    noise, *causes = found.attribution
    pairs = zip(found.budget.predicted, found.budget.measured, strict=True)
    sizes = [f"{predicted:.2e} / {measured:.2e}" for predicted, measured in pairs]
    told = ", ".join(f"{cause.cause} {cause.share:.1%}" for cause in causes if cause.share)
    return " | ".join((*sizes, f"{noise.share:.1%}", told))
