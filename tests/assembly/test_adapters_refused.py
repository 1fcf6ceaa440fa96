"""An adapter that cannot be added to a base is refused in one sentence that says why."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.merging import with_merged
from ckptdiff.config.peft import lora_settings
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats import open_checkpoint
from tests.assembly.test_wrapped_names import stored
from tests.support.pairs import noise
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Tensors = dict[str, Tensor]

FRONT = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{FRONT}.lora_A.weight", f"{FRONT}.lora_B.weight"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
KINDS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "dora": ({"use_dora": True}, "of the kind DoRA"),
    "other": ({"peft_type": "IA3"}, "of the kind IA3"),
    "parameters": ({"target_parameters": ["experts.w"]}, "of the kind LoRA of parameters"),
    "pissa": ({"init_lora_weights": "pissa"}, "may change the base weights too"),
    "pattern": ({"alpha_pattern": {"(a+)+$": 1}}, "the pattern '(a+)+$' is not read"),
    "rank": ({"r": 8}, "the config states rank 8: they are no pair of this rank"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    "no rank": ({"r": 0}, "r is 0"),
    "no config": (None, "no adapter_config.json is beside the adapter"),
}


def swapped(tensors: Tensors) -> Tensors:
    return {A: tensors[B], B: tensors[A]}


def wider(tensors: Tensors) -> Tensors:
    return {A: noise(4, tensors[A].shape[1] + 8), B: tensors[B]}


def deeper(tensors: Tensors) -> Tensors:
    return {name.replace("layers.0", "layers.7"): value for name, value in tensors.items()}


CONTENTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "swapped": (swapped, "A and B are swapped"),
    "other": (lambda t: {**t, f"{FRONT}.lora_E": noise(4)}, "lora_E' is no matrix of LoRA"),
    "half": (lambda t: {A: t[A]}, "has no lora_B"),
    "wider": (wider, "it is an adapter of another base"),
    "deeper": (deeper, "changes 'model.layers.7.self_attn.q_proj.weight', which"),
    "dora": (lambda t: {**t, f"{FRONT}.lora_magnitude_vector": noise(4)}, "is of DoRA"),
    "several": (lambda t: {**t, A.replace("A.", "A.x."): t[A].clone()}, "holds several adapters"),
    "bf16 ids": (lambda t: {**t, "base_model.model.model.norm.weight": noise(3)}, "another base"),
    "nothing": (lambda _: {"base_model.model.model.norm.weight": noise(64)}, "holds no tensor of"),
}  # fmt: skip


@pytest.fixture
def base(tiny_hf: Make) -> Path:
    return tiny_hf()


def adapter(folder: Path, base: Path, config: dict[str, Any] | None = CONFIG) -> Path:
    rows, columns = stored(base)["model.layers.0.self_attn.q_proj.weight"].shape
    folder.mkdir()
    save_file({A: noise(4, columns), B: noise(rows, 4)}, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(CkptDiffError) as caught:
        with_merged(assemble(open_checkpoint(base)), assemble(open_checkpoint(folder)))
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_config_states(name: str, base: Path, tmp_path: Path) -> None:
    changed, words = KINDS[name]
    config = None if changed is None else {**CONFIG, **changed}
    folder = adapter(tmp_path / "adapter", base, config)
    said = refusal(base, folder)
    assert said.startswith(f"{folder}: ")
    assert words in said


@pytest.mark.parametrize("name", CONTENTS)
def test_what_an_adapter_holds(name: str, base: Path, tmp_path: Path) -> None:
    change, words = CONTENTS[name]
    folder = adapter(tmp_path / "adapter", base)
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    assert words in refusal(base, folder)


def test_a_base_that_is_quantised(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base)
    shutil.copytree(base, tmp_path / "fp8")
    tensors = {n: t.to(torch.float8_e4m3fn) for n, t in stored(base).items()}
    for file in (tmp_path / "fp8").glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, tmp_path / "fp8/model.safetensors", {"format": "pt"})
    assert "F8_E4M3: an adapter is added to weights of bf16" in refusal(tmp_path / "fp8", folder)


def test_patterns_are_the_ends_of_names_as_in_peft() -> None:
    settings = lora_settings(
        {**CONFIG, "rank_pattern": {"0.q_proj": 2, "^model.k_proj": 3, r"layers.\d.v_proj": 5},
         "alpha_pattern": {"q_proj": 1.5}}, "x",
    )  # fmt: skip
    ranks = {"a.0.q_proj": 2, "a.10.q_proj": 4, "model.k_proj": 3, "a.model.k_proj": 4,
             "layers.7.v_proj": 5, "layers.77.v_proj": 4}  # fmt: skip
    assert {name: settings.rank_of(name) for name in ranks} == ranks
    assert settings.factor_of("a.0.q_proj", 2) == 0.75
    assert settings.factor_of("xq_proj", 4) == 2


def test_a_choice_in_a_pattern_is_read_and_other_groups_are_not() -> None:
    choices = {r"layers\.\d+\.mlp\.(gate|up)_proj": 2, "(?:q|k)_(proj|x)": 3, "a|(b|c)d": 5}
    settings = lora_settings({**CONFIG, "rank_pattern": choices}, "x")
    ranks = {"m.layers.12.mlp.up_proj": 2, "layers.1.mlp.down_proj": 4, "x.k_x": 3, "x.v_x": 4,
             "x.a": 5, "x.cd": 5, "x.ad": 4}  # fmt: skip
    assert {name: settings.rank_of(name) for name in ranks} == ranks
    for pattern in ("(a|b)*c", "((a|b)c)+", "(a" * 20, "(a|b)" * 7, "(a+)(a+)b", "(?=a)b"):
        with pytest.raises(CkptDiffError, match="is not read; merge it with PEFT"):
            lora_settings({**CONFIG, "alpha_pattern": {pattern: 1}}, "x")


@pytest.mark.slow
def test_the_command_merges_while_it_converts(base: Path, tmp_path: Path) -> None:
    folder, out = adapter(tmp_path / "adapter", base), tmp_path / "out"
    done = ckptdiff("convert", base, out, "--to", "torch_dist", "--adapter", folder)
    assert done.returncode == 0, done.stderr
    assert f"with the adapter {folder}: rank 4, alpha 8, on q_proj" in done.stdout
    assert "are the same, every byte compared" in done.stdout
    found = document(ckptdiff("diff", base, out, "--adapter", folder, "--json", "-"))
    assert found["verdict"] == "same"
    assert found["a"]["with_adapter"]["changes"] == ["model.layers.0.self_attn.q_proj.weight"]
    assert document(ckptdiff("diff", base, out, "--json", "-"))["counts"]["differ"] == 1
    # The folder that it is to be like may be the base, or what is merged.
    for name, like in (("back", base), ("again", tmp_path / "back")):
        arguments = ("--to", "hf", "--adapter", folder, "--like", like, "--json", "-")
        told = document(ckptdiff("convert", base, tmp_path / name, *arguments))
        assert told["with_adapter"]["path"] == str(folder)
        against = told["against_like"]
        assert (against["weights"], against["with_adapter"]) == ("same", like == base)


def test_the_command_says_it_in_one_line(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base, {**CONFIG, "use_dora": True})
    done = ckptdiff("diff", base, base, "--adapter", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "is an adapter of the kind DoRA" in done.stderr
    done = ckptdiff("diff", base, base, "--adapter", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such file or folder" in done.stderr
