"""Adapters that are not merged: named as what they are, in full checkpoints and alone."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import save_file

from tests.assembly.test_wrapped_names import diff, renamed, stored
from tests.support.pairs import edit_rank, noise, rank_file
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]

RANK = 3
ADAPTER = f"an adapter of rank {RANK} on q_proj, v_proj (8 tensors)"


def lora(weights: dict[str, Tensor], default: str = "") -> dict[str, Tensor]:
    """Return an adapter's tensors under PEFT's names; in a full checkpoint they have `default.`."""
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            rows, columns = weight.shape
            host = f"base_model.model.{name.removesuffix('.weight')}"
            made[f"{host}.lora_A.{default}weight"] = noise(RANK, columns)
            made[f"{host}.lora_B.{default}weight"] = noise(rows, RANK)
    return made


@pytest.fixture
def unmerged(tiny_hf: Make, tmp_path: Path) -> Path:
    def wrapped(name: str) -> str:
        adapted = name.endswith(("q_proj.weight", "v_proj.weight"))
        own = name.replace(".weight", ".base_layer.weight") if adapted else name
        return f"base_model.model.{own}"

    more = lora(stored(tiny_hf()), "default.")
    return renamed(tiny_hf(), tmp_path / "unmerged", wrapped, more)


@pytest.fixture
def alone(tiny_hf: Make, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(lora(stored(tiny_hf())), folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def classes(found: dict[str, Any]) -> list[str]:
    return [finding["class"] for finding in found["findings"]]


def test_an_adapter_beside_its_model_is_one_finding(tiny_hf: Make, unmerged: Path) -> None:
    status, found = diff(tiny_hf(), unmerged)
    assert (status, found["verdict"]) == (1, "differ")
    assert (found["counts"]["same"], found["counts"]["only_b"]) == (21, 8)
    (finding,) = found["findings"]
    assert (finding["class"], finding["severity"]) == ("EXTRA", "fault")
    assert finding["title"] == f"B holds {ADAPTER}; it is not merged"
    assert finding["layers"] == [0, 1]
    lines = ckptdiff("diff", tiny_hf(), unmerged).stdout
    assert "lora_A" not in lines  # one line for all of them
    assert "convert again" not in lines
    side = found["b"]["adapter"]
    assert (side["ranks"], side["targets"]) == ([RANK], ["q_proj", "v_proj"])
    assert diff(unmerged, unmerged)[1]["verdict"] == "same"


def test_a_folder_of_an_adapter_lacks_no_tensors_of_a_model(tiny_hf: Make, alone: Path) -> None:
    status, found = diff(tiny_hf(), alone)
    assert (status, found["verdict"]) == (1, "differ")
    assert classes(found) == ["EXTRA"]
    (finding,) = found["findings"]
    assert finding["title"] == f"B is {ADAPTER}, not a model"
    assert "all of the 4 weights that it changes are in A" in finding["evidence"]
    assert "no file" not in json.dumps(found)
    assert f"(is {ADAPTER})" in ckptdiff("ls", alone).stdout
    assert classes(diff(alone, tiny_hf())[1]) == ["EXTRA"]


def test_an_adapter_is_converted_by_no_one(alone: Path, unmerged: Path, tmp_path: Path) -> None:
    for to in ("hf", "megatron", "torch_dist"):
        done = ckptdiff("convert", alone, tmp_path / "out", "--to", to, "--allow-unmapped")
        assert done.returncode == 2
        assert f"is {ADAPTER}, not a model" in done.stderr
        done = ckptdiff("convert", unmerged, tmp_path / "out", "--to", to)
        assert done.returncode == 2
        assert f"holds {ADAPTER}, which is not merged" in done.stderr
        assert "--allow-unmapped" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf", "megatron"])
def test_a_model_is_converted_without_its_adapter_if_asked(
    to: str, tiny_hf: Make, unmerged: Path, tmp_path: Path
) -> None:
    done = ckptdiff("convert", unmerged, tmp_path / "out", "--to", to, "--allow-unmapped")
    assert done.returncode == 0, done.stderr
    assert f"left out: {ADAPTER}, which is not merged" in done.stdout
    assert diff(tiny_hf(), tmp_path / "out")[1]["weights"] == "same"


@pytest.mark.parametrize("host", ["to_wrap", "base_layer"])
def test_megatrons_adapters_are_named_and_the_base_is_read(
    host: str, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    shutil.copytree(tiny_megatron(tp=2, pp=1), folder)
    bridge = host == "to_wrap"
    parts = ("adapter.linear_in", "adapter.linear_out") if bridge else ("lora_A", "lora_B")

    def change(state: dict[str, Any]) -> None:
        model = {}
        for name, value in state["model"].items():
            module = name.removesuffix(".weight")
            if not name.endswith("linear_qkv.weight"):
                model[name] = value
                continue
            model[f"{module}.{host}.weight"] = value
            model[f"{module}.{parts[0]}.weight"] = noise(RANK, value.shape[1])
            model[f"{module}.{parts[1]}.weight"] = noise(value.shape[0], RANK)
        state["model"] = model

    for rank in ("00", "01"):
        edit_rank(rank_file(folder, rank), change)
    words = f"an adapter of rank {RANK} on k_proj, q_proj, v_proj (12 tensors)"
    _, found = diff(tiny_hf(), folder)
    assert found["counts"]["same"] == 21
    assert classes(found) == ["EXTRA"]
    assert found["findings"][0]["title"] == f"B holds {words}; it is not merged"
    assert found["unmapped"]["b"] == []
    assert document(ckptdiff("ls", folder, "--json"))["adapter"]["targets"] == [
        "k_proj", "q_proj", "v_proj",
    ]  # fmt: skip
    out = tmp_path / "out"
    done = ckptdiff("convert", folder, out, "--to", "hf", "--like", tiny_hf())
    assert (done.returncode, words in done.stderr) == (2, True)
    done = ckptdiff("convert", folder, out, "--to", "hf", "--like", tiny_hf(), "--allow-unmapped")
    assert done.returncode == 0, done.stderr
    assert diff(tiny_hf(), out)[1]["verdict"] == "same"
