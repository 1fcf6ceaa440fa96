"""Megatron-Bridge builds the model by our run_config.yaml, and loads the weights beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.formats.plain_yaml import read_yaml
from ckptdiff.formats.run_config import read_run_config
from tests.support.corpus import REPOSITORY
from tests.support.program import ckptdiff, document
from tests.support.saved_by_newest import unpack
from tests.support.skips import NO_BRIDGE
from tests.support.small_models import write_model

if TYPE_CHECKING:
    import subprocess

    from tests.support.oracle_client import Oracle

BRIDGE = os.environ.get("CKPTDIFF_BRIDGE", "")
# The fields that the classes have in 0.3.1 (with megatron-core 0.16.1) and on the main branch of
# August 2026 (with 0.19.2): what `tests.support.oracle_bridge FOLDER fields` printed, in both.
FIELDS = json.loads((REPOSITORY / "tests/data/fields-of-megatron-bridge.json").read_text())
OF_YAML = {"_target_", "_call_", "_partial_"}


def source_of(model: str, folder: Path) -> Path:
    """Return a Hugging Face folder: from the archive, or written here."""
    if model == "nemotron_3":
        return unpack(folder)[0]
    write_model(folder / "hf", model)
    return folder / "hf"


def convert(source: Path, out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return ckptdiff(
        *("convert", source, out, "--to", "torch_dist", "--run-config", "--accept", *extra)
    )


def written(source: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the iteration, and what its run_config.yaml holds."""
    done = convert(source, folder / "ours")
    assert done.returncode == 0, done.stderr
    iteration = folder / "ours/iter_0000001"
    return iteration, read_yaml(iteration / "run_config.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "qwen3", "nemotron", "nemotron_3"])
def test_the_classes_have_each_field_and_the_reader_gets_the_same_config(
    model: str, tmp_path: Path
) -> None:
    iteration, config = written(source_of(model, tmp_path), tmp_path)
    model_config = config["model"]
    target = model_config["_target_"]
    assert model_config.keys() - OF_YAML - {*FIELDS["of all"], *FIELDS[target]} == set()
    # Bridge asks for each of these.
    assert {"save_optim", "save_rng", "fully_parallel_save"} <= config["checkpoint"].keys()
    spread = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    assert [model_config[name] for name in spread] == [1, 1]
    for folder in (iteration / "train_state.pt", iteration.parent / "latest_train_state.pt"):
        state = torch.load(folder, weights_only=True)
        assert (state["step"].item(), state["step"].shape, state["do_train"].item()) == (1, (), 0)

    # Without args the reader goes by the YAML.
    assert read_run_config(iteration / "run_config.yaml")["num_layers"] > 0
    (iteration / "common.pt").unlink()
    found = document(ckptdiff("diff", tmp_path / "hf", iteration, "--json", "-"))
    assert (found["verdict"], found["weights"]) == ("same", "same")
    assert [line for line in found["config"] if line["status"] == "conflict"] == []
    if model in ("qwen3", "nemotron_3"):
        back = ckptdiff("convert", iteration, tmp_path / "back", "--to", "hf")
        assert back.returncode == 0, back.stderr
        found = document(ckptdiff("diff", tmp_path / "hf", tmp_path / "back", "--json", "-"))
        assert found["verdict"] == "same"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3moe", "deepseek-v3"])
def test_experts_are_built_layer_by_layer(model: str, corpus: Path, tmp_path: Path) -> None:
    _, config = written(corpus / model / "hf", tmp_path)
    found = config["model"]
    assert found.keys() - OF_YAML - {*FIELDS["of all"], *FIELDS[found["_target_"]]} == set()
    assert found["transformer_layer_spec"]["_target_"].endswith("get_gpt_decoder_block_spec")
    assert found["transformer_layer_spec"]["_partial_"] is True


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path) -> None:
    write_model(tmp_path / "hf", "gemma")
    done = convert(tmp_path / "hf", tmp_path / "out")
    assert done.returncode == 2
    assert (
        "run_config.yaml: no class of Megatron-Bridge's is known that builds gemma" in done.stderr
    )
    done = ckptdiff(
        "convert", tmp_path / "hf", tmp_path / "out", "--to", "megatron", "--run-config"
    )
    assert done.returncode == 2
    assert "beside a torch_dist checkpoint: choose that format" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "qwen3", "nemotron_3"])
def test_the_real_one_exports_what_was_converted(
    model: str, oracle: Oracle, tmp_path: Path
) -> None:
    if not (Path(BRIDGE) / "megatron/bridge").is_dir() or not BRIDGE:
        pytest.skip(NO_BRIDGE)
    source = source_of(model, tmp_path)
    # It exports the padding of a vocabulary as if it were tokens.
    done = convert(source, tmp_path / "ours", "--vocab-divisible-by", "1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    oracle.run("oracle_bridge", BRIDGE, "export", source, tmp_path / "ours", out)
    wanted = load_file(source / "model.safetensors")
    found = {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
