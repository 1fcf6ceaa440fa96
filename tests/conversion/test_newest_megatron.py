"""A newer megatron-core than the oracle's saves what we read, and loads what we write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.optimizer_pair import with_optimizer
from ckptdiff.assembly.optimizer_states import KINDS
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import compare
from tests.support.program import ckptdiff, document
from tests.support.skips import NO_NEWEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ckptdiff.assembly.recipe import Assembly
    from tests.support.oracle_client import Oracle

    Ask = Callable[[str], dict[str, Any]]

pytestmark = [pytest.mark.oracle, pytest.mark.slow]
WHEEL = os.environ.get("CKPTDIFF_MEGATRON", "")
# By model, and how many tensors its Hugging Face folder has.
MODELS = {"llama": 21, "qwen3_moe": 45, "nemotron_h": 29, "nemotron_3": 33}
FAMILIES = {"nemotron_3": "nemotron_h"}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(model: str, oracle: Oracle, tmp_path: Path) -> Ask:
    if not (Path(WHEEL) / "megatron/core").is_dir() or not WHEEL:
        pytest.skip(NO_NEWEST)

    def asked(command: str) -> dict[str, Any]:
        printed = oracle.run("newest_core", WHEEL, command, model, tmp_path)
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found

    return asked


def test_what_it_saves_is_listed_the_same_and_converted_alone(
    ask: Ask, model: str, tmp_path: Path
) -> None:
    assert "common.pt" not in ask("save")["files"]
    saved, source = tmp_path / "megatron", tmp_path / "hf"
    listed = document(ckptdiff("ls", saved, "--json"))
    assert (listed["family"], listed["iteration"]) == (FAMILIES.get(model, model), 1)
    comparison = compare(source, saved)
    assert len(comparison.results) == len(listed["tensors"]) == MODELS[model]
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")
    done = ckptdiff("convert", saved, tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.stderr
    again = compare(source, tmp_path / "out")
    assert (again.statuses, again.summary.verdict) == ({}, "same")


def test_it_loads_what_we_write(ask: Ask, model: str, tmp_path: Path) -> None:
    ask("save")
    done = ckptdiff(
        *("convert", tmp_path / "hf", tmp_path / "ours", "--to", "torch_dist"),
        *("--names", "te" if model in FAMILIES else "mcore", "--vocab-divisible-by", "1"),
        "--accept",  # Megatron-LM builds no Mamba layers of local parts: these names are ModelOpt's
    )
    assert done.returncode == 0, done.stderr
    loaded = ask("load")
    assert loaded["tensors"] == MODELS[model]
    assert [loaded[key] for key in ("absent", "unused", "different")] == [[], [], []]


def values(tensor: Assembly) -> Tensor:
    """Return the values of a tensor of one piece, from its file."""
    (piece,) = tensor.pieces
    at = piece.ref.offset_of(tuple(start for start, _ in piece.of))
    content = piece.ref.file.read_bytes()[at : at + tensor.nbytes]
    return torch.frombuffer(bytearray(content), dtype=torch.float32)


def save_trained(oracle: Oracle, model: str, kind: str, folder: Path) -> None:
    if not (Path(WHEEL) / "megatron/core").is_dir() or not WHEEL:
        pytest.skip(NO_NEWEST)
    oracle.run("newest_optimizer", WHEEL, model, kind, folder)


@pytest.mark.parametrize("model", ["llama", "qwen3_moe"])
def test_the_state_of_its_distributed_optimizer_is_named(
    model: str, oracle: Oracle, tmp_path: Path
) -> None:
    save_trained(oracle, model, "fully_reshardable", tmp_path)
    held = load_file(tmp_path / "state.safetensors")
    opened = open_checkpoint(tmp_path / "megatron")
    weights, _ = with_optimizer(assemble(opened), assemble(opened))
    assert not weights.unmapped
    found = {name: t for name, t in weights.tensors.items() if name.startswith("optimizer.")}
    assert len(found) == 3 * MODELS[model]
    # Unfused tensors of a layer, whose elements are those of one parameter.
    norm = "model.layers.1.post_attention_layernorm.weight"
    down = "model.layers.1.mlp.experts.2.down_proj.weight"
    pairs = {"model.embed_tokens.weight": "embedding.word_embeddings.weight"}
    pairs[norm] = "decoder.layers.1.pre_mlp_layernorm.weight"
    if model == "qwen3_moe":
        pairs[down] = "decoder.layers.1.mlp.experts.local_experts.2.linear_fc2.weight"
    for kind in KINDS:
        for hf, megatron in pairs.items():
            ours = values(found[f"optimizer.{kind}.{hf}"])
            assert torch.equal(ours, held[f"{kind}.{megatron}"].flatten()), (kind, hf)


def test_state_in_flat_buffers_is_refused_with_the_way_round(
    oracle: Oracle, tmp_path: Path
) -> None:
    save_trained(oracle, "llama", "dp_reshardable", tmp_path)
    done = ckptdiff("diff", tmp_path / "megatron", tmp_path / "megatron", "--optimizer")
    assert done.returncode == 2
    assert "dp_reshardable" in done.stderr
    assert "dist_ckpt_optim_fully_reshardable saves it under the names" in done.stderr
