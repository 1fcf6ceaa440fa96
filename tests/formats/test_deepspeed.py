"""Checkpoints that DeepSpeed itself wrote, by `tests/data/deepspeed/make.py`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.assembly.optimizer_states import has_masters, read_states
from ckptdiff.formats import open_checkpoint, read_entries
from tests.support.conversions import converted
from tests.support.deepspeed_runs import unpack
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.checkpoint import Checkpoint, TensorRef

WHOLE = ("zero0", "zero1", "zero1-fp32", "bf16", "zero2", "zero2-tied")  # without ZeRO-3
PUT_TOGETHER = ("zero3", "zero3-tied", "zero1-universal", "zero3-universal")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("deepspeed"))


def truth(runs: Path, run: str, kind: str, folder: Path) -> Path:
    """Return a folder of Hugging Face with the weights that DeepSpeed says a run has."""
    folder.mkdir(exist_ok=True)
    shutil.copy(runs / f"{run}.{kind}.safetensors", folder / "model.safetensors")
    shutil.copy(runs / run / "config.json", folder)
    return folder


def read(ref: TensorRef) -> Tensor:
    raw = bytearray(ref.file.read_bytes())
    whole = torch.frombuffer(raw, dtype=torch.uint8)[ref.offset :]
    flat = whole[: len(whole) // 8 * 8].clone().view(DTYPES[ref.dtype])
    return flat.as_strided(ref.shape, ref.stride)


def held(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, put together from their chunks."""
    found = {}
    for name, ref in checkpoint.shards[0].tensors.items():
        if checkpoint.chunks is None:
            found[name] = read(ref)
            continue
        whole = torch.zeros(ref.shape, dtype=DTYPES[ref.dtype])
        filled = torch.zeros(ref.shape, dtype=torch.int64)
        for chunk in checkpoint.chunks[ref]:
            box = tuple(slice(*bounds) for bounds in chunk.box)
            whole[box] = read(chunk.ref)
            filled[box] += 1
        assert torch.all(filled == 1), name
        found[name] = whole
    return found


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].to(tensor.dtype), tensor), name


@pytest.mark.parametrize("run", WHOLE)
@pytest.mark.parametrize("where", ["latest", "folder"])
def test_weights_are_those_of_the_model(runs: Path, run: str, where: str) -> None:
    checkpoint = open_checkpoint(runs / run if where == "latest" else runs / run / "global_step2")
    assert checkpoint.format == "deepspeed"
    assert checkpoint.iteration == 2
    assert checkpoint.config is not None
    trained = load_file(runs / f"{run}.trained.safetensors")
    found = held(checkpoint)
    assert_equal(found, trained)
    assert all(found[name].dtype == tensor.dtype for name, tensor in trained.items())


@pytest.mark.parametrize("run", PUT_TOGETHER)
def test_weights_are_put_together_as_deepspeed_does(runs: Path, run: str) -> None:
    checkpoint = open_checkpoint(runs / run)
    assert_equal(held(checkpoint), load_file(runs / f"{run}.fp32.safetensors"))
    assert any("DeepSpeed" in note for note in checkpoint.notes)


def test_experts_are_read_from_their_files(runs: Path) -> None:
    ranks = [load_file(runs / f"moe.trained-{rank}.safetensors") for rank in range(2)]
    wanted = {}
    for rank, tensors in enumerate(ranks):
        for name, tensor in tensors.items():
            head, experts, rest = name.partition("deepspeed_experts.")
            number, _, last = rest.partition(".")
            named = f"{head}{experts}{int(number) + 2 * rank}.{last}" if rest else name
            wanted[named] = tensor
    assert_equal(held(open_checkpoint(runs / "moe")), wanted)


@pytest.mark.parametrize(
    "run", ["zero1", "zero1-fp32", "bf16", "zero2", "zero3", "zero1-universal", "zero3-universal"]
)
def test_the_optimizer_has_the_names_of_the_weights(runs: Path, run: str) -> None:
    checkpoint = open_checkpoint(runs / run)
    states = read_states(checkpoint)
    assert not states.unnamed
    assert has_masters(checkpoint)
    wanted = load_file(runs / f"{run}.state.safetensors")
    found = {
        f"{kind}.{name}": tensor
        for kind, of_kind in states.kinds.items()
        for name, tensor in held(of_kind).items()
    }
    assert_equal(found, wanted)


def test_master_weights_of_two_groups_are_named(runs: Path) -> None:
    checkpoint = open_checkpoint(runs / "zero2-tied")
    masters = held(read_states(checkpoint).kinds["fp32_param"])
    wanted = load_file(runs / "zero2-tied.fp32.safetensors")
    assert len(masters) == 11
    assert_equal(masters, {name: wanted[name] for name in masters})


@pytest.mark.parametrize("run", [*WHOLE, *PUT_TOGETHER])
def test_every_tensor_is_the_same_as_in_a_plain_folder(
    runs: Path, run: str, tmp_path: Path
) -> None:
    kind = "trained" if run in WHOLE else "fp32"
    compared = compare(truth(runs, run, kind, tmp_path / "hf"), runs / run)
    assert len(compared.results) >= 12
    assert compared.statuses == {}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["zero2", "zero3", "zero3-universal"])
def test_a_conversion_there_and_back_keeps_every_bit(runs: Path, run: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(runs / run, source)
    wanted = held(open_checkpoint(source))
    converted(source, tmp_path / "hf", "hf")
    assert_equal(load_file(tmp_path / "hf" / "model.safetensors"), wanted)
    converted(source, tmp_path / "megatron", "megatron", allow_unmapped=True)
    converted(tmp_path / "megatron", tmp_path / "back", "hf")
    wanted.pop("model.steps_seen")  # a buffer that no rule knows
    assert_equal(load_file(tmp_path / "back" / "model.safetensors"), wanted)


def test_config_and_tokenizer_are_those_of_the_trainers_folder(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(runs / "zero3", folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    checkpoint = open_checkpoint(folder / "global_step2")
    assert checkpoint.config is not None
    assert checkpoint.config["hidden_size"] == 9
    assert checkpoint.token_files == {"generation_config.json": {"eos_token_id": 7}}
    assert checkpoint.folder == folder
    assert f"its config is that of {folder / 'config.json'}" in checkpoint.notes


def test_what_lies_beside_the_weights_is_listed(runs: Path) -> None:
    names = {entry.name for entry in read_entries(open_checkpoint(runs / "zero3"))}
    assert {"ds_version", "dp_world_size", "optimizer.1.zero_stage"} <= names
    assert not any(name.startswith("module") for name in names)
