"""Logits are, bit for bit, those of transformers' eager mode and of the real megatron-core.

All run on one thread, since a product may be summed up in another order on two.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.oracle import make_megatron
from tests.support.oracle_logits import DTYPES
from tests.support.pairs import edit_rank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": 125,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
WINDOW = 7
IDS = tokens(48, SIZES["vocab_size"])
SHORT = 16  # positions of training, where the text is to be longer


def rope(kind: str, theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN = rope("default", 1e6)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **rope("default"), "num_key_value_heads": 8},
    "llama-wide": {
        "model_type": "llama",
        **rope("default"),
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    },
    "llama3": {"model_type": "llama", **rope("llama3", 500000.0, **LLAMA3)},
    "qwen2": {"model_type": "qwen2", **QWEN, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **QWEN, "head_dim": 16},
    "mistral": {"model_type": "mistral", **QWEN, "sliding_window": WINDOW},
    "llama-mqa": {"model_type": "llama", **rope("default"), "num_key_value_heads": 1},
}
LONG: dict[str, Any] = {"original_max_position_embeddings": SHORT, "factor": 4.0}
FACTORS: dict[str, Any] = {
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.0, 2.0, 4.0, 6.0],
}
# Those that megatron-core does not know: transformers alone.
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": rope("linear", factor=4.0),
    "dynamic": {**rope("dynamic", factor=4.0), "max_position_embeddings": SHORT},
    "llama3-short": rope("llama3", **{**LLAMA3, "original_max_position_embeddings": SHORT}),
    "yarn": {**rope("yarn", **LONG), "max_position_embeddings": 64},
    "yarn-mscale": {
        **rope("yarn", **LONG, mscale=1.0, mscale_all_dim=0.5, beta_fast=16.0, truncate=False),
        "max_position_embeddings": 64,
    },
    "longrope-long": {**rope("longrope", **LONG, **FACTORS), "max_position_embeddings": 64},
    "longrope-short": {
        **rope("longrope", **FACTORS, original_max_position_embeddings=4096),
        "max_position_embeddings": 8192,
    },
}


@pytest.fixture(scope="module")
def written(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which transformers left every model and its logits."""
    root = tmp_path_factory.mktemp("models")
    models = {name: {**SIZES, **options} for name, options in MODELS.items()}
    models |= {name: {**SIZES, "model_type": "llama", **how} for name, how in SCALINGS.items()}
    found = oracle.compare(
        "oracle_logits",
        ranks=1,
        task="transformers",
        models=models,
        ids=IDS,
        root=str(root),
    )
    assert found["threads"] == 1
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wanted(folder: Path, dtype: str) -> Tensor:
    content = bytearray((folder / f"logits.{dtype}").read_bytes())
    return torch.frombuffer(content, dtype=DTYPES[dtype]).view(len(IDS), -1)


def megatron(oracle: Oracle, hf: Path, folder: Path, tp: int) -> tuple[Path, float]:
    """Return a checkpoint of the same weights, and megatron-core's loss over all its rows.

    Beside the checkpoint megatron-core left its logits.
    """
    config = json.loads((hf / "config.json").read_text())
    make_megatron(folder, load_file(hf / "model.safetensors"), config, tp=tp, divisible_by=8)
    window = config.get("sliding_window")
    for file in folder.glob("*/*/model_optim_rng.pt") if window else ():
        edit_rank(file, lambda state: setattr(state["args"], "window_size", (window - 1, 0)))
    iteration = folder / "iter_0000001"
    found = oracle.compare(
        "oracle_logits",
        ranks=tp,
        task="megatron",
        hf=str(hf),
        iteration=str(iteration),
        tp=tp,
        ids=IDS,
    )
    assert found["threads"] == 1
    return iteration, found["loss"]


@pytest.mark.parametrize(
    ("name", "tp"), [*((name, tp) for name in MODELS for tp in (1, 2)), ("llama", 4)]
)
def test_both_sides_are_what_their_programs_compute(
    name: str, tp: int, oracle: Oracle, written: Path, tmp_path: Path
) -> None:
    hf = written / name
    iteration, loss = megatron(oracle, hf, tmp_path / "megatron", tp)
    apart = {}
    for dtype in DTYPES:
        for side, folder, got in zip(
            "ab", (hf, iteration), free_run(hf, iteration, IDS, dtype), strict=True
        ):
            expected = wanted(folder, dtype)
            assert got.dtype == expected.dtype
            assert got.shape == expected.shape
            if not torch.equal(got, expected):
                apart[dtype, side] = float((got.double() - expected.double()).abs().max())
    assert apart == {}
    if (name, tp) == ("llama", 1):
        measured = compare_logits(hf, iteration, IDS, storage="fp32").metrics
        assert measured.nll_padded_b == pytest.approx(loss, abs=1e-6)
        assert loss > (measured.nll_b or loss) + 1e-3
        assert measured.nll_padded_a is None


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_positions_are_scaled_as_transformers_does(name: str, written: Path) -> None:
    hf = written / name
    apart = {}
    for dtype in DTYPES:
        got, _ = free_run(hf, hf, IDS, dtype)
        if not torch.equal(got, wanted(hf, dtype)):
            apart[dtype] = float((got.double() - wanted(hf, dtype).double()).abs().max())
    assert apart == {}


def test_scalings_differ_from_each_other(written: Path) -> None:
    """Otherwise the test above could not tell one from the other."""
    found = {name: wanted(written / name, "fp32") for name in SCALINGS}
    pairs = [(a, b) for a in found for b in found if a < b]
    assert all(not torch.allclose(found[a], found[b], atol=1e-3) for a, b in pairs)
