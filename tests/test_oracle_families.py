"""Families beyond Llama's, scattered into the real megatron-core, give transformers' logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each run starts megatron-core in a process a rank: most of a minute on a busy machine.
pytestmark = pytest.mark.timeout(600)

HERE = Path(__file__).resolve().parent
# Model, TP, EP. Norms over all heads are whole in every rank, so they only work at TP 1.
RUNS = [
    *((model, tp, 1) for model in (
        "phi3", "gpt_neox", "gpt2", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "glm4_moe",
        "gemma", "gemma2", "gemma3_text", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text",
    ) for tp in (1, 2)),
    ("olmo2", 1, 1),
    ("olmoe", 1, 1),
    *((model, 1, 2) for model in ("mixtral", "gpt_oss", "glm4_moe", "qwen3_next")),
]  # fmt: skip


def logits(request: pytest.FixtureRequest, *arguments: str) -> dict[str, float]:
    python = request.config.getoption("--oracle") or sys.executable
    done = subprocess.run(
        [python, str(HERE / "oracle_families.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.oracle
@pytest.mark.parametrize(("model", "tp", "ep"), RUNS)
def test_megatron_computes_what_transformers_computes(
    model: str, tp: int, ep: int, request: pytest.FixtureRequest
) -> None:
    found = logits(request, model, str(tp), str(ep))
    assert found["max_abs"] < 1e-5
    assert found["spread"] > 0.1


@pytest.mark.oracle
@pytest.mark.parametrize("model", ["gpt_oss", "qwen3_next"])
def test_a_fault_in_the_weights_would_show(model: str, request: pytest.FixtureRequest) -> None:
    assert logits(request, model, "2", "1", "fault")["max_abs"] > 0.01
