"""Checkpoints that NVIDIA's code wrote compute what their Hugging Face sources compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.run import compare_logits
from ckptdiff.logits.verdict import place
from ckptdiff.results import LogitDiff
from tests.support.corpus import CORPUS, from_corpus
from tests.support.logit_runs import tokens
from tests.support.mended import conflicts, mended

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint

SOURCES = sorted(CORPUS.glob("*/hf"))
FOLDERS = [f for hf in SOURCES for f in sorted(hf.parent.glob("megatron*"))]
CONVERTED = [folder for folder in FOLDERS if "trained" not in folder.name]
IDS = tokens(12, 200)


def name(folder: Path) -> str:
    return str(folder.relative_to(CORPUS))


def compared(a: Checkpoint, b: Checkpoint) -> LogitDiff:
    pair = assemble_pair(a, b)
    *_, found = compare_logits(*pair, IDS, InlineExecutor(), device="cpu")
    assert isinstance(found, LogitDiff)
    return found


def told(found: LogitDiff) -> str:
    largest = max(found.taps, key=lambda tap: tap.rel)
    return (
        f"{found.verdict}: {largest.rel:.1e} at {place(largest)}, threshold {found.threshold:.1e}"
    )


@pytest.mark.slow
@pytest.mark.sampled(one_in=3)
@pytest.mark.parametrize("folder", from_corpus(CONVERTED), ids=name)
def test_a_correct_conversion_is_only_arithmetic(folder: Path) -> None:
    hf, megatron = open_checkpoint(folder.parent / "hf"), open_checkpoint(folder)
    lines = conflicts(*assemble_pair(hf, megatron))
    if any(line.meaning != "Vocabulary" for line in lines):
        found = compared(hf, megatron)
        print(f"{name(folder)}, as it is: {told(found)}")  # noqa: T201
        assert found.verdict == "weights-or-config"
        assert found.first is not None
        assert (found.first.layer, found.first.name) == (0, "q_rope")
        hf, megatron = mended(hf, megatron, lines)
    found = compared(hf, megatron)
    print(f"{name(folder)}: {told(found)}")  # noqa: T201
    assert found.verdict == "arithmetic"


@pytest.mark.slow
@pytest.mark.parametrize("folder", from_corpus(sorted(set(FOLDERS) - set(CONVERTED))), ids=name)
def test_weights_that_were_trained_are_no_arithmetic(folder: Path) -> None:
    found = compared(open_checkpoint(folder.parent / "hf"), open_checkpoint(folder))
    assert found.verdict == "weights-or-config"
