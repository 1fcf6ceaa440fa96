"""Compute the logits of two checkpoints, in one call."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.executor import InlineExecutor
from ckptdiff.forward.lockstep import unpacked
from ckptdiff.logits import run as engine
from ckptdiff.results import LogitDiff
from tests.support.pairs import open_pair

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
    run = engine._LogitComparison(*open_pair(a, b), tuple(ids), InlineExecutor(), reference)
    taking = run._pass(dtype, "cpu", "", compares=False)
    while True:
        try:
            next(taking)
        except StopIteration as end:
            one, other = end.value.logits
            break
    cpu = torch.device("cpu")
    return unpacked(one, cpu)["logits"], unpacked(other, cpu)["logits"]


def compare_logits(a: Path, b: Path, ids: Sequence[int], **options: Any) -> LogitDiff:
    """Return what the comparison comes to, in this process."""
    *_, found = engine.compare_logits(*open_pair(a, b), ids, InlineExecutor(), **options)
    assert isinstance(found, LogitDiff)
    return found
