"""Base and adapter together are what PEFT merges, bit for bit, without a merged copy on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pairs import compare_and_diagnose

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle
    from tests.support.pairs import Comparison

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN: dict[str, Any] = {"r": 8, "lora_alpha": 12, "target_modules": LINEAR}
CASES: dict[str, dict[str, Any]] = {
    "fp32": {"settings": PLAIN},
    "bf16": {"dtype": "bfloat16", "adapter": "bfloat16", "settings": PLAIN},
    "fp16": {"dtype": "float16", "adapter": "float16", "settings": PLAIN},
    "bf16 and fp32": {"dtype": "bfloat16", "settings": {**PLAIN, "use_rslora": True}},
    "fp32 and bf16": {"adapter": "bfloat16", "settings": PLAIN},
    "transposed": {
        "family": "gpt2",
        "settings": {**PLAIN, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    },
    "biases": {
        "family": "gpt2",
        "settings": {
            **PLAIN, "target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True,
            "modules_to_save": ["wpe"],
        },
    },
    "fused": {
        "family": "phi3", "dtype": "bfloat16",
        "settings": {**PLAIN, "target_modules": ["qkv_proj", "gate_up_proj"]},
    },
    "embedding, head, patterns": {
        "family": "qwen3", "dtype": "bfloat16",
        "settings": {
            **PLAIN, "target_modules": ["q_proj", "embed_tokens", "lm_head"],
            "alpha_pattern": {"layers.0.self_attn.q_proj": 3},
            "rank_pattern": {"^model.layers.1.self_attn.q_proj": 6},
        },
    },
    "tied": {
        "tied": True, "dtype": "bfloat16",
        "settings": {
            **PLAIN, "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"],
        },
    },
}  # fmt: skip


def made(oracle: Oracle, folder: Path, **case: Any) -> bool:
    """Have PEFT write the three folders; return whether torch adds up in order here."""
    question = {"family": "llama", "dtype": "float32", "adapter": "float32", **case}
    found = oracle.compare("oracle_peft", ranks=1, folder=str(folder), **question)
    return bool(found["in_order"])


def merged(folder: Path) -> tuple[Comparison, list[str]]:
    compared, findings = compare_and_diagnose(
        folder / "base", folder / "merged", adapter=folder / "adapter"
    )
    return compared, [finding.title for finding in findings]


@pytest.mark.parametrize("name", CASES)
def test_what_peft_merges_is_the_same(name: str, oracle: Oracle, tmp_path: Path) -> None:
    in_order = made(oracle, tmp_path, **CASES[name])
    compared, findings = merged(tmp_path)
    assert findings == []
    statuses = set(compared.statuses.items())
    assert compared.summary.verdict == ("same" if not statuses else "close")
    if in_order:  # else this machine's torch adds in another order
        assert not statuses
    assert all(result.why in (None, "sums") for result in compared.results.values())
    assert compare_and_diagnose(tmp_path / "base", tmp_path / "merged")[0].statuses


@pytest.mark.parametrize(
    "merge", [{"safe": True}, {"autocast": False}, {"safe": True, "autocast": False}], ids=str
)
def test_a_merge_that_rounds_once_more_is_close(
    merge: dict[str, Any], oracle: Oracle, tmp_path: Path
) -> None:
    made(oracle, tmp_path, dtype="bfloat16", adapter="bfloat16", settings=PLAIN, merge=merge)
    compared, findings = merged(tmp_path)
    assert findings == []
    assert set(compared.statuses.values()) == {"close"}
    assert compared.summary.verdict == "close"
    assert {compared[name].why for name in compared.statuses} == {"sums"}
