"""What is converted is accepted by the real loaders, and computes what its source computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.conversions import converted
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

LLAMAS: dict[str, Any] = {"hidden": 64, "heads": 8, "groups": 4, "ffn": 96,
                          "dtype": torch.float32, "transformers": 5}  # fmt: skip
RUNS = [
    *((model, 2, 1) for model in (
        "gpt2", "phi3", "gpt_neox", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "glm4_moe",
    )),
    *((model, 1, 2) for model in ("mixtral", "gpt_oss", "glm4_moe")),
    ("olmo2", 1, 1),
    ("olmoe", 1, 1),
]  # fmt: skip
# What these compute is not in Megatron's args; converting says so.
BEYOND_ARGS = ("gpt_neox", "gpt_oss")


@pytest.mark.parametrize(("family", "tp"), [("llama", 1), ("llama", 2), ("mistral", 2),
                                            ("qwen2", 2), ("qwen3", 2)])  # fmt: skip
def test_llamas_kin(family: Any, tp: int, oracle: Oracle, tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", family, **LLAMAS)
    check(oracle, family, tmp_path, tp, 1)


@pytest.mark.sampled(one_in=2)
@pytest.mark.parametrize(("model", "tp", "ep"), RUNS)
def test_other_families(model: str, tp: int, ep: int, oracle: Oracle, tmp_path: Path) -> None:
    oracle.compare("oracle_families", ranks=tp * ep, model=model, tp=tp, ep=ep, fault=False,
                   folder=str(tmp_path))  # fmt: skip
    check(oracle, model, tmp_path, tp, ep)


def check(oracle: Oracle, model: str, folder: Path, tp: int, ep: int) -> None:
    """Convert `folder/hf` there and back, and load all of it."""
    etp = 1 if model == "gpt_oss" else None
    converted(
        folder / "hf", folder / "out", "megatron",
        tp=tp, ep=ep, etp=etp, names="mcore", vocab_divisible_by=24,
    )  # fmt: skip
    like = folder / "hf" if model in BEYOND_ARGS else None
    converted(folder / "out", folder / "back", "hf", like=like)
    result = oracle.compare(
        "oracle_rank_files", ranks=tp * ep, model=model, hf=str(folder / "hf"),
        iteration=str(folder / "out/iter_0000001"), back=str(folder / "back"), tp=tp, ep=ep,
    )  # fmt: skip
    assert result["absent"] == []
    assert result["unexpected"] == []
    assert result["max_abs"] < 1e-5
    assert result["spread"] > 0.1
    assert result["told"] == {}
    assert result["back"] < 1e-30
