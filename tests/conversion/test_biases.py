"""Biases that a config allows: which Megatron can have, which it cannot, and none that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.compare import compare_configs, config_status
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.pairs import compare
from tests.support.small_models import GROUPS, HEAD, write_model

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = ("qkv", "output")
ALL = (*ATTENTION, "mlp")
SWITCHES = {"attention_bias": ATTENTION, "mlp_bias": ("mlp",)}
# Family, biases, and what Megatron cannot compute: the meaning of the setting; None: nothing.
CASES: list[tuple[str, tuple[str, ...], str | None]] = [
    ("llama", (), None),
    ("llama", ALL, None),
    ("llama", ATTENTION, "Attention output bias"),
    ("llama", ("mlp",), "Linear biases"),
    ("qwen3", (), None),
    ("qwen3", ATTENTION, "Attention output bias"),
    ("nemotron", ALL, None),
    ("nemotron", ATTENTION, "Attention output bias"),
    ("nemotron", ("mlp",), "Linear biases"),
    ("gemma", ATTENTION, "Attention output bias"),
]
OFTEN = (
    "norms scale by one more",
    "Activation",
    "Gemma multiplies",
)  # of what Megatron cannot compute of any Gemma


def switches(biases: tuple[str, ...]) -> dict[str, bool]:
    return {name: set(parts) <= set(biases) for name, parts in SWITCHES.items()}


@pytest.mark.parametrize(("family", "biases", "beyond"), CASES)
@pytest.mark.parametrize("tp", [1, 2])
def test_biases_come_back_and_what_megatron_cannot_compute_is_told(
    family: str, biases: tuple[str, ...], beyond: str | None, tp: int, tmp_path: Path
) -> None:
    write_model(tmp_path / "hf", family, biases=biases, **switches(biases))
    found, _ = converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=tp, names="mcore")
    cannot = [one for one in found.cannot if not one.startswith(OFTEN)]
    assert [one.partition(" is ")[0] for one in cannot] == ([beyond] if beyond else [])
    assert found.left == ()
    comparison = compare(tmp_path / "hf", tmp_path / "out")
    assert comparison.statuses == {}
    assert comparison.a.unmapped == comparison.b.unmapped == ()
    lines = compare_configs(comparison.a, comparison.b)
    conflicts = [line.meaning for line in lines if line.status == "conflict"]
    assert conflicts == ([beyond] if beyond else [])
    assert (config_status(lines) == "conflict") is bool(beyond)
    args = comparison.b.checkpoint.config or {}
    assert args["add_bias_linear"] is (biases == ALL)
    assert args["add_qkv_bias"] is ("qkv" in biases)
    converted(tmp_path / "out", tmp_path / "back", "hf", like=tmp_path / "hf")
    assert different(hf_tensors(tmp_path / "hf"), hf_tensors(tmp_path / "back")) == []


def test_a_bias_goes_where_the_rows_of_its_weight_go(tmp_path: Path) -> None:
    held = write_model(tmp_path / "hf", "qwen3", biases=ATTENTION, attention_bias=True)
    converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=2, names="mcore")
    found = rank_tensors(tmp_path / "out")
    q, k, v = (
        held[f"model.layers.1.self_attn.{x}_proj.bias"].view(GROUPS, -1, HEAD) for x in "qkv"
    )
    for rank in range(2):
        layer = f"mp_rank_{rank:02d} model decoder.layers.1.self_attention."
        rows = torch.cat((q[rank], k[rank], v[rank])).flatten()
        assert torch.equal(found[f"{layer}linear_qkv.bias"], rows)
        output = held["model.layers.1.self_attn.o_proj.bias"]
        assert torch.equal(found[f"{layer}linear_proj.bias"], output)


@pytest.mark.parametrize("family", ["llama", "qwen3", "nemotron"])
def test_a_bias_that_the_config_promises_and_no_file_has_is_missed(
    family: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "hf", family, attention_bias=True)
    with pytest.raises(UnsupportedLayout, match=r"q_proj\.bias"):
        converted(tmp_path / "hf", tmp_path / "out", "megatron", names="mcore")


@pytest.mark.parametrize(
    ("family", "stray"),
    [
        ("llama", {"partial_rotary_factor": 0.5}),
        ("llama", {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2}),
        ("llama", {"num_experts": 8, "moe_intermediate_size": 4}),
        ("llama", {"kv_lora_rank": 4, "attention_multiplier": 0.5}),
        ("mistral", {"attention_bias": True, "mlp_bias": True, "sliding_window": None}),
        ("qwen3", {"mlp_bias": True, "qkv_bias": True}),
    ],
    ids=str,
)
def test_a_field_that_the_class_does_not_read_changes_no_arg(
    family: str, stray: dict[str, Any], tmp_path: Path
) -> None:
    window = {"sliding_window": None} if family == "mistral" else {}
    args = []
    for name, more in (("plain", {}), ("odd", stray)):
        write_model(tmp_path / name, family, **{**window, **more})
        converted(tmp_path / name, tmp_path / f"{name}-out", "megatron", names="mcore")
        found = dict(assemble(open_checkpoint(tmp_path / f"{name}-out")).checkpoint.config or {})
        assert found.pop("hf_config")  # as it is, read or not
        args.append(found)
    assert args[0] == args[1]
