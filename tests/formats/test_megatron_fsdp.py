"""Megatron's formats that are plain folders of torch.distributed.checkpoint.

`fsdp_dtensor`: a checkpoint that the real Megatron-FSDP wrote, on four ranks with TP 2.
`tests/support/megatron_fsdp.py` made it, and the same model as a Hugging Face folder. `torch_dcp`:
megatron-core's FSDP 2 writes it in the test.
"""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.optimizer_states import read_states
from ckptdiff.formats import open_checkpoint, read_entries
from tests.formats.test_torch_dist import write_dcp
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.corpus import REPOSITORY
from tests.support.pairs import compare
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.support.oracle_client import Oracle

MADE = REPOSITORY / "tests/data/megatron_fsdp.zip"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("megatron-fsdp")
    with zipfile.ZipFile(MADE) as archive:
        archive.extractall(folder)
    return folder


def test_it_is_read_by_the_rules_of_its_family(made: Path) -> None:
    side = assemble(open_checkpoint(made / "mfsdp"))
    assert (side.checkpoint.convention, side.family) == ("megatron", "qwen3")
    assert side.checkpoint.iteration == 5
    assert len(side.checkpoint.files) == 4
    assert (side.unmapped, side.errors) == ((), {})
    assert max(len({p.ref.file for p in t.pieces}) for t in side.tensors.values()) == 4


def test_it_holds_the_values_of_its_source_as_fp32(made: Path) -> None:
    comparison = compare(made / "hf", made / "mfsdp")
    assert comparison.results.keys() == hf_tensors(made / "hf").keys()
    for name, result in comparison.results.items():
        assert (result.dtype_a, result.dtype_b) == ("BF16", "F32")
        assert comparison.numbers(name).max_abs == 0


def test_it_is_converted_back_bit_for_bit_without_a_reference(made: Path, tmp_path: Path) -> None:
    converted(made / "mfsdp", tmp_path / "hf", "hf", dtype="bf16")
    assert different(hf_tensors(tmp_path / "hf"), hf_tensors(made / "hf")) == []
    converted(made / "mfsdp", tmp_path / "dist", "torch_dist")
    assert compare(made / "mfsdp", tmp_path / "dist").summary.weights == "same"


def test_a_gate_in_the_place_of_its_up_is_found_and_named(
    made: Path, copy_of: Any, tmp_path: Path
) -> None:
    bad = copy_of(made / "mfsdp")
    file = bad / "iter_0000005/.metadata"
    metadata = pickle.loads(file.read_bytes())
    stored = {(i.fqn, i.offset): i for i in metadata.storage_data}
    for (name, offset), index in stored.items():
        if name.endswith("layers.1.mlp.linear_fc1.weight_w") and name.startswith("model."):
            other = stored[name[:-1] + "v", offset]
            one, two = metadata.storage_data[index], metadata.storage_data[other]
            metadata.storage_data[index], metadata.storage_data[other] = two, one
    file.write_bytes(pickle.dumps(metadata))
    done = ckptdiff("diff", made / "hf", bad)
    assert done.returncode == 1
    assert "FC1-SWAP: [up; gate], not [gate; up]" in done.stdout
    assert "2 tensors, layer 1" in done.stdout


def test_its_moments_are_those_of_its_weights(made: Path) -> None:
    entries = {entry.name: entry for entry in read_entries(open_checkpoint(made / "mfsdp"))}
    name = "optimizer.state.module.module.module.decoder.layers.0.mlp.linear_fc1.weight_w.exp_avg"
    assert entries[name].text == "F32 18x16"
    states = read_states(open_checkpoint(made / "mfsdp"))
    assert states.unnamed == []
    assert states.kinds.keys() == {"exp_avg", "exp_avg_sq"}
    shapes = {name: tuple(t.shape) for name, t in hf_tensors(made / "hf").items()}
    for checkpoint in states.kinds.values():
        side = assemble(checkpoint)
        assert {name: t.shape for name, t in side.tensors.items()} == shapes
        assert not side.errors
    done = ckptdiff("diff", made / "mfsdp", made / "mfsdp", "--optimizer")
    assert "75 tensors: 75 same" in done.stdout


def test_gate_and_up_of_experts_are_joined_too(
    tiny_hf: Callable[..., Path], tiny_megatron: Callable[..., Path], tmp_path: Path
) -> None:
    """Our own imitation: Megatron's `handle_swiglu_in_state_dict` names them so."""
    model = {"family": "mixtral"}
    for experts in ("te_grouped", "sequential"):
        source = tiny_megatron(model=model, names="te", experts=experts)
        tensors: dict[str, Tensor] = {}
        for name, tensor in rank_tensors(source, trusted=True).items():
            plain = name.split()[-1]
            if "linear_fc1.weight" in plain:
                gate, up = tensor.chunk(2)
                tensors |= {f"module.{plain}_w": gate, f"module.{plain}_v": up}
            else:
                tensors[f"module.{plain}"] = tensor
        folder = write_dcp(tmp_path / experts, {"model": tensors})
        comparison = compare(tiny_hf(**model), folder)
        assert comparison.b.checkpoint.convention == "megatron"
        assert comparison.statuses == {}
        assert not comparison.b.unmapped
        names = [name for name in comparison.results if "experts" in name]
        assert names
        assert not any("rows" in note for note in comparison.b.notes)


@pytest.mark.oracle
@pytest.mark.parametrize("world", [2, 3])
def test_torch_dcp_equals_its_source_and_is_converted_bit_for_bit(
    world: int,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    oracle: Oracle,
    tmp_path: Path,
) -> None:
    model = {"family": "qwen3", "vocab": 64, "tied": False}
    source = tiny_hf(**model)
    oracle.compare(
        "oracle_torch_dcp", ranks=world, world=world, hf=str(source), out=str(tmp_path / "dcp")
    )
    side = assemble(open_checkpoint(tmp_path / "dcp"))
    assert (side.checkpoint.convention, side.family) == ("megatron", "qwen3")
    assert (side.checkpoint.iteration, len(side.checkpoint.files)) == (7, world)
    comparison = compare(source, tmp_path / "dcp")
    assert (comparison.statuses, comparison.summary.weights) == ({}, "same")
    assert not comparison.b.unmapped
    converted(tmp_path / "dcp", tmp_path / "hf", "hf")
    assert different(hf_tensors(tmp_path / "hf"), tiny_weights(**model)) == []
    # Its state has numbers in the place of names.
    states = read_states(side.checkpoint)
    assert not states.kinds
    assert states.unnamed
