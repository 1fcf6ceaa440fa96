"""Weights scattered by our rules into the real megatron-core give transformers' logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from oracle_hf import LLAMA3_ROPE

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
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


@pytest.fixture
def logits(
    request: pytest.FixtureRequest, tiny_hf: Callable[..., Path]
) -> Callable[..., dict[str, float]]:
    """Return a function that runs `oracle_megatron` on a model made for it."""
    python = request.config.getoption("--oracle") or sys.executable

    def run(name: str, tp: int, *faults: str) -> dict[str, float]:
        folder = tiny_hf(**{**SIZES, **MODELS[name]})
        script = HERE / "oracle_megatron.py"
        done = subprocess.run(
            [python, str(script), str(folder), str(tp), *faults],
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "tp"), RUNS)
def test_megatron_computes_what_transformers_computes(
    name: str, tp: int, logits: Callable[..., dict[str, float]]
) -> None:
    found = logits(name, tp)
    assert found["max_abs"] < 1e-5
    assert found["spread"] > 0.1


@pytest.mark.oracle
def test_a_fault_in_the_weights_would_show(logits: Callable[..., dict[str, float]]) -> None:
    assert logits("qwen3", 2, "kv-swap")["max_abs"] > 0.01
