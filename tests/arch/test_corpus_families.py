"""Experts, DeepSeek, GPT-2 and Nemotron in Megatron's torch format, as NVIDIA's code wrote them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckptdiff.arch import find_architecture
from tests.support.corpus import CORPUS, from_corpus
from tests.support.pairs import compare
from tests.support.verified import VERIFIED

if TYPE_CHECKING:
    from pathlib import Path

# How many tensors each source has.
SOURCES = {
    "deepseek-noqlora": 85,
    "deepseek-trained": 71,
    "deepseek-v3": 171,
    "gpt2": 52,
    "mixtral": 79,
    "mixtral-etp": 60,
    "nemotron": 44,
    "qwen2moe": 117,
    "qwen3moe": 135,
}
TRAINED = "deepseek-trained/megatron-tp1-pp1-ep2-dp2-trained2steps-distopt-torch"
ROUNDED = "deepseek-v3/megatron-tp1-pp1-ep2-torch"  # that run kept the router's bias in bf16
CASES = sorted(
    f"{source}/{folder.name}"
    for source in SOURCES
    for folder in CORPUS.glob(f"{source}/megatron-*")
    if not any(folder.glob("iter_*/.metadata"))
)


def test_every_family_that_files_are_said_of_has_some_and_no_other(corpus: Path) -> None:
    found = set()
    for config in corpus.glob("*/hf/config.json"):
        family = find_architecture(json.loads(config.read_text()))
        assert family is not None
        found.add(family.name)
    assert found == {name for name, how in VERIFIED.items() if how.files}


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize(
    "case", from_corpus(case for case in CASES if case not in (TRAINED, ROUNDED))
)
def test_what_nvidia_wrote_equals_its_source(corpus: Path, case: str) -> None:
    source = case.partition("/")[0]
    comparison = compare(corpus / source / "hf", corpus / case)
    assert comparison.statuses == {}
    assert comparison.summary.weights == "same"
    assert len(comparison.results) == SOURCES[source]
    for side in (comparison.a, comparison.b):
        assert not side.unmapped
        assert not side.errors


def test_a_routers_bias_that_was_rounded_is_close(corpus: Path) -> None:
    comparison = compare(corpus / "deepseek-v3/hf", corpus / ROUNDED)
    assert set(comparison.statuses.values()) == {"close"}
    assert set(comparison.statuses) == {
        f"model.layers.{layer}.mlp.gate.e_score_correction_bias" for layer in range(1, 5)
    }


def test_training_changed_what_it_should(corpus: Path) -> None:
    comparison = compare(corpus / "deepseek-trained/hf", corpus / TRAINED)
    assert comparison.summary.counts["same"] == 11
    assert comparison.summary.counts["differ"] == 60


def test_experts_that_a_converter_filled_with_garbage_are_named(corpus: Path) -> None:
    broken = "broken/mixtral-tp1-ep2-core_r0.12-converter-bug-expert-weights-garbage"
    comparison = compare(corpus / "mixtral/hf", corpus / broken)
    assert comparison.summary.weights == "differ"
    assert len(comparison.statuses) == 48
    assert all(".experts." in name for name in comparison.statuses)
    largest = max(
        numbers.max_abs or 0.0 for result in comparison.results.values()
         for numbers in [result.numbers] if numbers is not None
    )  # fmt: skip
    assert largest > 1e20


def test_experts_of_which_half_is_missing_are_errors(corpus: Path) -> None:
    comparison = compare(
        corpus / "mixtral-etp/hf", corpus / "broken/mixtral-tp1-etp2-torch-half-the-experts"
    )
    assert set(comparison.statuses.values()) == {"error"}
    assert len(comparison.statuses) == 36
    for name in comparison.statuses:
        assert "TP rank 1 of 2 has no shard of it" in (comparison[name].error or "")
