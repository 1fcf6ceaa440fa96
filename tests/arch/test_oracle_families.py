"""Families beyond Llama's in the real megatron-core: transformers' logits, and what it saves."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open

from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

# Model, TP, EP. Norms over all heads are whole in every rank, so they only work at TP 1.
RUNS = [
    *((model, 2, 1) for model in (
        "phi3", "gpt_neox", "gpt2", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "glm4_moe",
        "gemma", "gemma2", "gemma3_text", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text",
        "deepseek_v3", "nemotron", "nemotron_h", "seed_oss", "smollm3",
        "ernie4_5",
    )),
    *((model, 1, 1) for model in ("gpt2", "olmo2", "olmoe", "minimax_m2")),
    *((model, 1, 2) for model in ("mixtral", "gpt_oss", "glm4_moe", "qwen3_next", "deepseek_v3")),
]  # fmt: skip


def run(
    oracle: Oracle, model: str, tp: int, ep: int, folder: Path, *, fault: bool = False
) -> dict[str, float]:
    return oracle.compare(
        "oracle_families",
        ranks=tp * ep,
        model=model,
        tp=tp,
        ep=ep,
        fault=fault,
        folder=str(folder),
    )


def elements(folder: Path) -> int:
    """Return how many numbers a Hugging Face folder holds."""
    found = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return found


@pytest.mark.sampled(one_in=2)
@pytest.mark.parametrize(("model", "tp", "ep"), RUNS)
def test_megatron_computes_what_transformers_computes_and_saves_the_same(
    model: str, tp: int, ep: int, oracle: Oracle, tmp_path: Path
) -> None:
    found = run(oracle, model, tp, ep, tmp_path)
    assert found["max_abs"] < 1e-5
    assert found["spread"] > 0.1
    comparison = compare(tmp_path / "hf", tmp_path / "megatron")
    assert comparison.statuses == {}
    assert comparison.summary.weights == "same"
    a, b = comparison.a, comparison.b
    assert a.unmapped == b.unmapped == ()
    assert set(a.tensors) == set(b.tensors) == set(comparison.results)
    assert sum(prod(tensor.shape) for tensor in a.tensors.values()) == elements(tmp_path / "hf")


ATTENTION = {"attention_bias": True}
# Model, and switches of its config that give it biases or take them away.
SWITCHES: list[tuple[str, dict[str, bool]]] = [
    ("llama", {**ATTENTION, "mlp_bias": True}),
    ("nemotron", {**ATTENTION, "mlp_bias": True}),
    ("glm4_moe", {"attention_bias": False}),
    ("qwen2_moe", {"qkv_bias": False}),
    *((model, ATTENTION) for model in ("qwen3", "qwen3_moe", "gemma", "nemotron", "qwen3_next")),
]


@pytest.mark.parametrize(("model", "changes"), SWITCHES)
def test_megatron_has_the_biases_that_a_switch_gives(
    model: str, changes: dict[str, bool], oracle: Oracle, tmp_path: Path
) -> None:
    found = oracle.compare("oracle_families", ranks=2, model=model, tp=2, ep=1, fault=False,
                           folder=str(tmp_path), changes=changes)  # fmt: skip
    assert found["max_abs"] < 1e-5
    assert found["spread"] > 0.1
    comparison = compare(tmp_path / "hf", tmp_path / "megatron")
    assert all(
        status == "only_a" and name.endswith("o_proj.bias")
        for name, status in comparison.statuses.items()
    )
    biases = [name for name in comparison.results if name.endswith("q_proj.bias")]
    assert bool(biases) is any(changes.values())
    # All linear layers have one, or the output of attention has none.
    assert bool(comparison.statuses) is (changes == ATTENTION)


@pytest.mark.parametrize("model", ["gpt_oss", "qwen3_next"])
def test_a_fault_in_the_weights_would_show(model: str, oracle: Oracle, tmp_path: Path) -> None:
    assert run(oracle, model, 2, 1, tmp_path, fault=True)["max_abs"] > 0.01
    comparison = compare(tmp_path / "hf", tmp_path / "megatron")
    assert set(comparison.statuses.values()) == {"differ"}
    assert all("k_proj" in name or "gate_proj" in name for name in comparison.statuses)
