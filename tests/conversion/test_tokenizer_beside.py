"""Whose tokenizer is taken along: beside the weights or above them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.formats.test_torch_dist import write_dcp
from tests.support.conversions import converted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("where", ["tokenizer", "context/nemo_tokenizer"])
def test_the_tokenizer_beside_the_weights_is_taken_along(
    where: str, tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    converted(tiny_hf(), tmp_path / "run", "torch_dist")
    (root,) = (tmp_path / "run").glob("iter_*")
    if where.startswith("context"):  # as NeMo 2 has it: the weights in a folder of their own
        (tmp_path / "nemo").mkdir()
        root = root.rename(tmp_path / "nemo" / "weights")
        (tmp_path / "nemo/context").mkdir()
    folder = (root.parent if where.startswith("context") else root) / where
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text(f'{{"of": "{name}"}}')
    (folder / "secrets.txt").write_text("not of a tokenizer")
    for number, path in enumerate((root, root.parent)):
        out = tmp_path / f"hf-{number}"
        conversion, _ = converted(path, out, "hf")
        assert any(note.startswith(f"copied from {folder}") for note in conversion.notes)
        assert (out / "tokenizer.json").read_text() == '{"of": "tokenizer.json"}'
        assert (out / "special_tokens_map.json").exists()
        assert not (out / "secrets.txt").exists()
    converted(root, tmp_path / "lent", "hf", like=tiny_hf())  # which has no tokenizer
    assert (tmp_path / "lent/tokenizer.json").exists()
    again, _ = converted(root, tmp_path / "again", "megatron")
    assert str(folder) in (again.launch or "")


def test_a_tokenizer_that_is_a_link_to_elsewhere_is_named_and_not_copied(
    tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    converted(tiny_hf(), tmp_path / "run", "torch_dist")
    (root,) = (tmp_path / "run").glob("iter_*")
    (root / "tokenizer").mkdir()
    (tmp_path / "secret").write_text("{}")
    (root / "tokenizer/tokenizer.json").symlink_to(tmp_path / "secret")
    conversion, _ = converted(root, tmp_path / "hf", "hf")
    assert any("links out of" in note and "tokenizer.json" in note for note in conversion.notes)
    assert not (tmp_path / "hf/tokenizer.json").exists()


def test_the_tokenizer_above_a_folder_of_dcp_is_taken_along_with_its_config(
    tiny_hf: Callable[..., Path], tiny_weights: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write_dcp(run / "checkpoint-3" / "pytorch_model_fsdp_0", {"model": tiny_weights()})
    shutil.copy(tiny_hf() / "config.json", run)
    (run / "tokenizer.json").write_text("{}")
    (run / "trainer_state.json").write_text("{}")
    converted(run / "checkpoint-3", tmp_path / "hf", "hf")
    assert (tmp_path / "hf/tokenizer.json").exists()
    assert not (tmp_path / "hf/trainer_state.json").exists()
    conversion, _ = converted(run / "checkpoint-3", tmp_path / "megatron", "megatron")
    assert f"--tokenizer-model {run}" in (conversion.launch or "")
