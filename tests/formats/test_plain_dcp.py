"""Folders of torch.distributed.checkpoint that other programs than Megatron write."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import NotACheckpoint
from ckptdiff.formats import open_checkpoint, read_entries
from tests.formats.test_torch_dist import write_dcp
from tests.support.conversions import converted, different, hf_tensors
from tests.support.pairs import compare
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.support.oracle_client import Oracle

# Who saves, on how many ranks, how many of them hold the same, and what else is in the folder.
SAVES = [
    ("plain", 2, 1, ""),
    ("plain", 4, 1, ""),
    ("plain", 4, 2, ""),
    ("app", 2, 1, "app.optim, epoch"),
    ("titan", 2, 1, "optimizer, train_state, lr_scheduler, dataloader"),
    ("accelerate", 2, 1, ""),
    ("fsdp1", 4, 1, ""),
]
# Sizes that four ranks cannot share equally: the last holds fewer rows, or none.
MODEL: dict[str, Any] = {
    "family": "qwen3", "hidden": 24, "heads": 3, "groups": 1, "ffn": 54, "vocab": 61, "tied": False,
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize(("how", "world", "replicas", "beside"), SAVES)
def test_what_fsdp_saved_equals_its_source_and_is_converted_bit_for_bit(
    how: str,
    world: int,
    replicas: int,
    beside: str,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    oracle: Oracle,
    tmp_path: Path,
) -> None:
    source = tiny_hf(**MODEL)
    out = tmp_path / "checkpoint-7"
    oracle.compare(
        "oracle_dcp", ranks=world, world=world, how=how, hf=str(source), out=str(out),
        replicas=replicas,
    )  # fmt: skip
    shutil.copy(source / "config.json", out)
    side = assemble(open_checkpoint(out))
    assert (side.checkpoint.format, side.checkpoint.convention) == ("dcp", "hf")
    assert (side.family, side.checkpoint.iteration, side.wrapping) == ("qwen3", 7, None)
    assert len(side.checkpoint.files) == world
    assert sorted(note for note in side.checkpoint.notes if note.startswith("also in")) == (
        [f"also in checkpoint-7, not compared: {beside}"] if beside else []
    )
    comparison = compare(source, out)
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")
    assert len(comparison.results) == len(side.tensors)
    converted(out, tmp_path / "hf", "hf")
    assert different(hf_tensors(tmp_path / "hf"), tiny_weights(**MODEL)) == []
    converted(out, tmp_path / "megatron", "megatron", names="te")
    back = compare(source, tmp_path / "megatron")
    assert (back.statuses, back.summary.weights) == ({}, "same")


@pytest.mark.oracle
def test_the_folder_of_an_optimizer_says_where_the_weights_are(
    tiny_hf: Callable[..., Path], oracle: Oracle, tmp_path: Path
) -> None:
    oracle.compare(
        "oracle_dcp", ranks=2, world=2, how="accelerate", hf=str(tiny_hf()), out=str(tmp_path)
    )
    with pytest.raises(
        NotACheckpoint, match=r"no weights; the weights are in pytorch_model_fsdp_0"
    ):
        open_checkpoint(tmp_path / "optimizer_0")


@pytest.mark.parametrize("at", [".", "..", "../..", "huggingface", "../huggingface"])
def test_the_config_is_looked_for_in_the_folder_and_above(
    at: str, tiny_hf: Callable[..., Path], tiny_weights: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "checkpoint-3" / "pytorch_model_fsdp_0"
    write_dcp(folder, {"model": tiny_weights()})
    (folder / at).mkdir(exist_ok=True)
    shutil.copy(tiny_hf() / "config.json", folder / at)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.iteration, assemble(checkpoint).family) == (3, "llama")
    told = [note for note in checkpoint.notes if "config" in note]
    assert len(told) == (at != ".")
    assert all(str((folder / at).resolve()) in note for note in told)
    assert compare(tiny_hf(), folder).summary.verdict == "same"


def test_a_key_around_the_weights_is_no_part_of_their_names(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = tiny_weights(family="qwen3")  # the head is tied: every name begins with `model.`
    trees: list[dict[str, Any]] = [
        weights,
        {"model": weights},
        {"state_dict": weights, "epoch": torch.tensor(2)},
    ]
    for number, tree in enumerate(trees):
        folder = write_dcp(tmp_path / str(number), tree)
        (shard,) = open_checkpoint(folder).shards
        assert shard.tensors.keys() == weights.keys()


def test_what_lies_beside_the_weights_is_listed_and_not_compared(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = tiny_weights()
    state = {name: {"exp_avg": torch.zeros(3)} for name in weights}
    tree = {"model": weights, "optimizer": {"state": state}, "ema": weights, "step": 7}
    checkpoint = open_checkpoint(write_dcp(tmp_path, tree))
    (note,) = (note for note in checkpoint.notes if note.startswith("also in"))
    assert note.endswith("not compared: ema, optimizer, step")
    entries = {entry.name: entry for entry in read_entries(checkpoint)}
    assert entries["step"].kind == "opaque"
    assert entries["optimizer.state.lm_head.weight.exp_avg"].text == "F32 3"
    assert entries["ema.lm_head.weight"].kind == "tensor"
    assert len(entries) == 2 * len(weights) + 1


def test_a_plain_folder_is_no_checkpoint_of_megatron(plain_folder: Path) -> None:
    done = ckptdiff("ls", plain_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  dcp  llama  " in done.stdout
    assert "TP" not in done.stdout


@pytest.fixture
def plain_folder(
    tiny_hf: Callable[..., Path], tiny_weights: Callable[..., Any], tmp_path: Path
) -> Path:
    folder = write_dcp(tmp_path / "dcp", tiny_weights())
    shutil.copy(tiny_hf() / "config.json", folder)
    return folder
