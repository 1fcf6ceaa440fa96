"""Llama's kin in the real megatron-core: transformers' logits, and what it saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.oracle_hf import LLAMA3_ROPE
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "hidden": 64,
    "heads": 8,
    "groups": 4,
    "head_dim": 8,
    "ffn": 96,
    "dtype": torch.float32,
    "transformers": 5,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama 2": {"family": "llama", "groups": 8},
    "llama 3": {"family": "llama", "rope_scaling": LLAMA3_ROPE},
    "llama tied": {"family": "llama", "tied": True, "transformers": 4},
    "mistral": {"family": "mistral"},
    "qwen2": {"family": "qwen2"},
    "qwen2 untied": {"family": "qwen2", "tied": False, "transformers": 4},
    "qwen3": {"family": "qwen3", "head_dim": 16},
}
RUNS = [*((name, 2) for name in MODELS), ("llama 3", 1), ("qwen2", 1), ("qwen3", 1)]


def run(
    oracle: Oracle, folder: Path, saved: Path, tp: int, *, kv_swap: bool = False
) -> dict[str, float]:
    return oracle.compare(
        "oracle_megatron",
        ranks=tp,
        folder=str(folder),
        saved=str(saved),
        tp=tp,
        kv_swap=kv_swap,
    )


@pytest.mark.parametrize(("name", "tp"), RUNS)
def test_megatron_computes_what_transformers_computes_and_saves_the_same(
    name: str,
    tp: int,
    oracle: Oracle,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    model = {**SIZES, **MODELS[name]}
    found = run(oracle, tiny_hf(**model), tmp_path, tp)
    assert found["max_abs"] < 1e-5
    assert found["spread"] > 0.1
    comparison = compare(tiny_hf(**model), tmp_path)
    assert comparison.statuses == {}
    assert comparison.summary.weights == "same"
    assert comparison.a.unmapped == comparison.b.unmapped == ()
    assert set(comparison.results) == set(comparison.b.tensors) == set(tiny_weights(**model))


def test_a_fault_in_the_weights_would_show(
    oracle: Oracle, tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_hf(**{**SIZES, **MODELS["qwen3"]})
    assert run(oracle, folder, tmp_path, 2, kv_swap=True)["max_abs"] > 0.01
    comparison = compare(folder, tmp_path)
    assert comparison.statuses == {
        name: "differ" for name in comparison.a.tensors if ".k_proj." in name or ".v_proj." in name
    }
