"""Base and adapter together are what PEFT merges, bit for bit, without a merged copy on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from tests.support.pairs import compare_and_diagnose

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Finding
    from tests.support.oracle_client import Oracle
    from tests.support.pairs import Comparison

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

BASE, MERGED, ADAPTER = (
    "base/model.safetensors", "merged/model.safetensors", "adapter/adapter_model.safetensors",
)  # fmt: skip
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
    "tied, saved whole": {
        "tied": True,
        "settings": {
            **PLAIN, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True,
        },
    },
    "multimodal": {
        "family": "llava",
        "settings": {**PLAIN, "target_modules": ["q_proj", "up_proj", "linear_1", "lm_head"]},
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


def merged(folder: Path) -> tuple[Comparison, list[Finding]]:
    return compare_and_diagnose(folder / "base", folder / "merged", adapter=folder / "adapter")


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


# What the config states in place of alpha 12, and what is said then of the merged model.
FATES: dict[str, tuple[dict[str, Any], str, str]] = {
    "twice": ({"lora_alpha": 6}, "B holds base + 2 x the adapter", "merged twice"),
    "alpha": ({"lora_alpha": 8}, "B holds base + 1.5 x the adapter", "alpha was 12"),
    "rslora": ({"use_rslora": True}, "B holds base + 0.3536 x the adapter", "rslora"),
    "subtracted": ({"lora_alpha": -12}, "B holds base + -1 x the adapter", "subtracted"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_alpha_is_named(dtype: str, oracle: Oracle, tmp_path: Path) -> None:
    made(oracle, tmp_path, dtype=dtype, settings=PLAIN)
    file = tmp_path / "adapter/adapter_config.json"
    right = json.loads(file.read_text())
    for changed, title, cause in FATES.values():
        file.write_text(json.dumps({**right, **changed}))
        _, findings = merged(tmp_path)
        (finding,) = findings
        assert (finding.kind, finding.title) == ("LOW-RANK", title)
        assert cause in finding.cause
        assert len(finding.tensors) == 14


def test_a_layer_that_was_left_out_and_a_product_that_was_turned(
    oracle: Oracle, tmp_path: Path
) -> None:
    made(oracle, tmp_path, settings=PLAIN)
    base, adapter = (load_file(tmp_path / name) for name in (BASE, ADAPTER))
    result = load_file(tmp_path / MERGED)
    left = [n for n in base if "layers.1" in n and n.endswith(("v_proj.weight", "up_proj.weight"))]
    result |= {name: base[name] for name in left}
    turned = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{turned}.lora_{x}.weight"] for x in "AB")
    result[f"{turned}.weight"] = base[f"{turned}.weight"] + ((b @ a) * 1.5).T
    save_file(result, tmp_path / MERGED, {"format": "pt"})
    _, findings = merged(tmp_path)
    by_title = {finding.title: finding for finding in findings}
    told = by_title.pop("B holds base + the adapter's product transposed")
    assert told.tensors == (f"{turned}.weight",)
    ((title, told),) = by_title.items()
    assert title.startswith("the adapter was not merged into 2 of the 14 weights")
    assert (set(told.tensors), told.layers) == (set(left), (1,))


def test_other_changes_are_told_as_without_an_adapter(oracle: Oracle, tmp_path: Path) -> None:
    made(oracle, tmp_path, settings=PLAIN)
    result = load_file(tmp_path / MERGED)
    name = "model.layers.1.self_attn.q_proj.weight"
    result[name] = result[name].flip(0).contiguous()
    save_file(result, tmp_path / MERGED, {"format": "pt"})
    compared, findings = merged(tmp_path)
    assert compared.statuses == {name: "differ"}
    (finding,) = findings
    assert "adapter" not in finding.title
