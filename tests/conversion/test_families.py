"""Every family's own tensors go to Megatron and torch_dist and come back bit for bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.errors import UnsupportedLayout
from tests.support.conversions import converted, different, hf_tensors
from tests.support.families import MODELS

if TYPE_CHECKING:
    from pathlib import Path

# The norm behind their DeltaNet is kept less one by Megatron: a change of values, not of places.
REFUSED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
WIDE = ("olmo2", "olmo3", "exaone4", "olmoe")  # norms over all heads, whole on every rank
HYBRID = ("nemotron_h",)

pytestmark = pytest.mark.oracle


def made(folder: Path, described: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Write a model of these shapes, with random weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described["config"]))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in described["shapes"].items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def cuts(model: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ways to cut a tiny model."""
    routed = any(config.get(n) for n in ("num_experts", "num_local_experts", "n_routed_experts"))
    found: list[dict[str, Any]] = [{"tp": 1}, {"tp": 2, "pp": 2}, {"tp": 2, "names": "te"}]
    if model in HYBRID:
        found = [{"tp": 1}, {"tp": 2}]
    if routed:
        found += [{"tp": 2, "ep": 2}, {"tp": 2, "ep": 4, "etp": 1, "names": "te"},
                  {"tp": 1, "ep": 2, "names": "te", "moe_grouped_gemm": True}]  # fmt: skip
    if model == "gpt_oss":  # Megatron does not split experts with biases
        found = [{**cut, "etp": 1} for cut in found]
    return found


@pytest.mark.parametrize("model", sorted(set(MODELS) - set(REFUSED)))
def test_there_and_back(model: str, described: dict[str, Any], tmp_path: Path) -> None:
    hf = tmp_path / "hf"
    weights = made(hf, described[model])
    for number, cut in enumerate(cuts(model, described[model]["config"])):
        out = tmp_path / f"cut-{number}"
        converted(hf, out, "megatron", vocab_divisible_by=24, **cut)
        converted(out, tmp_path / f"back-{number}", "hf", like=hf)
        assert different(hf_tensors(tmp_path / f"back-{number}"), weights) == [], cut
    converted(hf, tmp_path / "dist", "torch_dist", vocab_divisible_by=24)
    converted(tmp_path / "dist", tmp_path / "back", "hf", like=hf)
    assert different(hf_tensors(tmp_path / "back"), weights) == []
    # From one of Megatron's formats to the other, cut another way.
    converted(tmp_path / "cut-1", tmp_path / "anew", "torch_dist", vocab_divisible_by=8, like=hf)
    converted(tmp_path / "anew", tmp_path / "again", "hf", like=hf)
    assert different(hf_tensors(tmp_path / "again"), weights) == []


@pytest.mark.parametrize("model", REFUSED)
def test_what_would_change_values_is_refused(
    model: str, described: dict[str, Any], tmp_path: Path
) -> None:
    made(tmp_path / "hf", described[model])
    with pytest.raises(UnsupportedLayout, match="less one"):
        converted(tmp_path / "hf", tmp_path / "out", "megatron")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
