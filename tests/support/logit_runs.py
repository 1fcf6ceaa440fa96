"""Compute the logits of two checkpoints, in one call."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward.lockstep import Logits
from ckptdiff.logits import run as engine
from ckptdiff.results import LogitDiff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor


def tokens(count: int, vocabulary: int, seed: int = 1) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(vocabulary) for _ in range(count)]


def free_run(
    a: Path, b: Path, ids: Sequence[int], dtype: str, reference: str = "hf"
) -> tuple[Tensor, Tensor]:
    """Return both sides' logits, each side on its own values from the first step to the last."""
    pair = assemble_pair(open_checkpoint(a), open_checkpoint(b))
    comparison = engine._LogitComparison(*pair, tuple(ids), InlineExecutor(), reference)
    return run_freely(comparison, dtype)


def run_freely(comparison: engine._LogitComparison, dtype: str) -> tuple[Tensor, Tensor]:
    """Return both sides' logits, (positions, tokens), without those of padding."""
    run = comparison._run(dtype, "cpu", compares=False)
    for _ in comparison._pass(run, ""):
        pass
    with torch.inference_mode():
        one, other = Logits(run, comparison.sections[-1]).at(slice(len(run.ids)))
    return one[:, : run.vocabulary], other[:, : run.vocabulary]


def compare_logits(a: Path, b: Path, ids: Sequence[int], **options: Any) -> LogitDiff:
    """Return what the comparison comes to, in this process."""
    *_, found = engine.compare_logits(
        *assemble_pair(open_checkpoint(a), open_checkpoint(b)), ids, InlineExecutor(), **options
    )
    assert isinstance(found, LogitDiff)
    return found
