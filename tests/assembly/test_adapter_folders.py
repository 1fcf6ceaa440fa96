"""Adapters as they lie in people's folders: beside configs and models, and with whole tensors."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.errors import CkptDiffError
from tests.assembly.test_wrapped_names import stored
from tests.support.conversions import converted
from tests.support.pairs import compare, compare_and_diagnose, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

FRONT, MODULE = "base_model.model.", "model.layers.0.self_attn.q_proj"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def adapter(folder: Path, base: Path, whole: tuple[str, ...] = (HEAD,), **config: Any) -> Path:
    """Write an adapter of one module, and of tensors that it holds whole."""
    rows, columns = stored(base)[f"{MODULE}.weight"].shape
    tensors = {
        f"{FRONT}{MODULE}.lora_A.weight": noise(4, columns),
        f"{FRONT}{MODULE}.lora_B.weight": noise(rows, 4, seed=1),
    }
    size = stored(base)[EMBEDDING].shape
    tensors |= {f"{FRONT}{name}": noise(*size, seed=2) for name in whole}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merged_by_hand(folder: Path, base: Path, peft: Path) -> Path:
    """Write what torch makes of the base and an adapter."""
    held = load_file(peft / "adapter_model.safetensors")
    down, up = (held.pop(f"{FRONT}{MODULE}.lora_{x}.weight") for x in "AB")
    tensors = stored(base)
    name = f"{MODULE}.weight"
    tensors[name] = (tensors[name].float() + (up @ down) * 2).to(tensors[name].dtype)
    tensors |= {name.removeprefix(FRONT): tensor for name, tensor in held.items()}
    shutil.copytree(base, folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def beside_a_config(peft: Path, base: Path) -> None:
    shutil.copy(base / "config.json", peft)


def beside_its_model(peft: Path, base: Path) -> None:
    shutil.copytree(base, peft, dirs_exist_ok=True)


def saved_by_torch(peft: Path, base: Path) -> None:
    del base
    file = peft / "adapter_model.safetensors"
    torch.save(load_file(file), peft / "adapter_model.bin")
    file.unlink()


def saved_twice(peft: Path, base: Path) -> None:
    del base
    torch.save({}, peft / "adapter_model.bin")


@pytest.mark.parametrize("change", [beside_a_config, beside_its_model, saved_by_torch, saved_twice])
def test_what_lies_beside_an_adapter_changes_nothing(
    change: Callable[[Path, Path], None], tiny_hf: Make, tmp_path: Path
) -> None:
    base = tiny_hf(dtype=torch.float32)
    peft = adapter(tmp_path / "adapter", base)
    merged = merged_by_hand(tmp_path / "merged", base, peft)
    change(peft, base)
    compared = compare_and_diagnose(base, merged, adapter=peft)[0]
    assert compared.statuses == {}
    assert compared.a.merging is not None
    assert compared.a.merging.replaced == (HEAD,)
    converted(base, tmp_path / "out", "hf", adapter=peft)
    assert compare(merged, tmp_path / "out").statuses == {}


def refusal(base: Path, peft: Path) -> str:
    with pytest.raises(CkptDiffError) as caught:
        compare_and_diagnose(base, base, adapter=peft)
    return str(caught.value)


@pytest.mark.parametrize("whole", [(HEAD,), (EMBEDDING,), (HEAD, EMBEDDING)], ids=str)
def test_a_head_that_is_trained_apart_from_the_embedding_is_not_both(
    whole: tuple[str, ...], tiny_hf: Make, tmp_path: Path
) -> None:
    base = tiny_hf(tied=True)
    modules = [name.split(".")[-2] for name in whole]
    peft = adapter(tmp_path / "adapter", base, whole, modules_to_save=modules)
    said = refusal(base, peft)
    assert f"holds '{whole[0]}' whole, which {base} ties to another" in said
    # A vocabulary that grew has both without being asked, and an adapter may keep them tied.
    tied = {"modules_to_save": modules, "ensure_weight_tying": True}
    for name, config in (("grown", {}), ("tied", tied)):
        peft = adapter(tmp_path / name, base, whole, **config)
        side = compare_and_diagnose(base, base, adapter=peft)[0].a
        assert side.merging is not None
        assert side.merging.replaced == (EMBEDDING,)


def test_the_adapter_in_the_place_of_the_model_is_said_to_be_one(
    tiny_hf: Make, tmp_path: Path
) -> None:
    base = tiny_hf()
    peft = adapter(tmp_path / "adapter", base)
    assert f"{peft}: is an adapter of rank 4" in refusal(peft, peft)
    assert f"{base}: holds no tensor of a LoRA adapter" in refusal(base, base)


def test_a_bias_needs_a_bias_to_be_added_to(tiny_hf: Make, tmp_path: Path) -> None:
    base = tiny_hf()
    peft = adapter(tmp_path / "adapter", base, (), lora_bias=True)
    file = peft / "adapter_model.safetensors"
    tensors = load_file(file)
    rows = tensors[f"{FRONT}{MODULE}.lora_B.weight"].shape[0]
    save_file({**tensors, f"{FRONT}{MODULE}.lora_B.bias": noise(rows)}, file)
    said = refusal(base, peft)
    assert f"has a bias for '{MODULE}'" in said
    assert "another base" not in said


def test_tokens_that_were_added_are_a_reason_for_another_shape(
    tiny_hf: Make, tmp_path: Path
) -> None:
    base = tiny_hf()
    peft = adapter(tmp_path / "adapter", base)
    file = peft / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[f"{FRONT}{HEAD}"] = noise(*(n + 3 for n in tensors[f"{FRONT}{HEAD}"].shape[:1]), 32)
    save_file(tensors, file)
    assert "or of this one with tokens added" in refusal(base, peft)


@pytest.mark.parametrize("name", ["use_rslora", "fan_in_fan_out"])
def test_a_switch_is_true_or_false(name: str, tiny_hf: Make, tmp_path: Path) -> None:
    base = tiny_hf()
    peft = adapter(tmp_path / "adapter", base, (), **{name: 1})
    assert refusal(base, peft) == f"{peft}: {name} is 1, neither true nor false"
