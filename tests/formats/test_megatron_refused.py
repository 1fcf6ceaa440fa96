"""What is missing, mixed or not what it says in Megatron's torch format is refused by its name."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.errors import (
    CorruptFile,
    MissingShard,
    MixedShards,
    NotACheckpoint,
    UnsupportedLayout,
)
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import edit_rank, rank_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

MIXTRAL: dict[str, Any] = {"family": "mixtral", "layers": 2}


@pytest.mark.parametrize(
    ("layout", "gone", "said"),
    [
        ({"tp": 2}, "01", "missing mp_rank_01 stage 0"),
        ({"tp": 2}, "00", "missing mp_rank_00 stage 0"),
        ({"tp": 2, "pp": 2}, "01_000", "missing mp_rank_01 stage 0"),
        ({"pp": 2}, "00_001", "pipeline stage 1 of 2 is missing"),
        ({"pp": 2}, "00_000", "pipeline stage 0 of 2 is missing"),
    ],
)
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_rank_that_is_missing_is_named(
    tiny_megatron: Make, copy_of: Make, layout: dict[str, Any], gone: str, said: str, what: str
) -> None:
    folder = copy_of(tiny_megatron(**layout))
    file = rank_file(folder, gone)
    if what == "folder":
        shutil.rmtree(file.parent)
    else:
        file.unlink()
        said = f"mp_rank_{gone}: holds neither"
    with pytest.raises(MissingShard) as caught:
        open_checkpoint(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_expert_rank_that_is_missing_is_named(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron(model=MIXTRAL, tp=2, ep=2))
    shutil.rmtree(rank_file(folder, "01_001").parent)
    with pytest.raises(MissingShard, match="missing mp_rank_01 stage 0 ep 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("stray", ["02", "00_001"])
def test_a_rank_too_many_is_refused(tiny_megatron: Make, copy_of: Make, stray: str) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    inside = folder / "iter_0000001"
    shutil.copytree(inside / "mp_rank_00", inside / f"mp_rank_{stray}")
    with pytest.raises(MixedShards, match=r"there is also|are both"):
        open_checkpoint(folder)


def test_one_rank_in_two_folders_is_refused(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    inside = folder / "iter_0000001"
    shutil.copytree(inside / "mp_rank_01", inside / "mp_rank_01_000")
    with pytest.raises(MixedShards, match="mp_rank_01 and mp_rank_01_000 are both tp 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("how", ["hard", "symbolic"])
def test_one_file_for_two_ranks_is_refused(tiny_megatron: Make, copy_of: Make, how: str) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    one, other = rank_file(folder, "00"), rank_file(folder, "01")
    other.unlink()
    if how == "hard":
        os.link(one, other)
    else:
        other.symlink_to(one)
    with pytest.raises(MixedShards, match="one and the same file"):
        open_checkpoint(folder)


def test_ranks_of_two_iterations_are_refused(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    edit_rank(rank_file(folder, "01"), lambda state: state.update(iteration=2))
    with pytest.raises(MixedShards, match=r"iteration \d.* other ranks are of"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", 3), ("hidden_size", 64), ("tensor_model_parallel_size", 4),
     ("num_query_groups", 1), ("untie_embeddings_and_output_weights", False)],
)  # fmt: skip
def test_ranks_of_two_models_are_refused(
    tiny_megatron: Make, copy_of: Make, name: str, value: object
) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    edit_rank(rank_file(folder, "01"), lambda state: setattr(state["args"], name, value))
    with pytest.raises(MixedShards, match=f"args say {name} {value}") as caught:
        open_checkpoint(folder)
    assert "mp_rank_01" in str(caught.value)


def test_ranks_with_and_without_virtual_stages_are_refused(
    tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron(tp=2))

    def split(state: dict[str, Any]) -> None:
        state["model0"], state["model1"] = state.pop("model"), {}

    edit_rank(rank_file(folder, "01"), split)
    with pytest.raises(MixedShards, match="2 virtual pipeline chunks"):
        open_checkpoint(folder)


def test_both_names_of_a_rank_file_are_refused(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron())
    file = rank_file(folder, "00")
    shutil.copy(file, file.with_name("model_rng.pt"))
    with pytest.raises(MixedShards, match=r"model_optim_rng\.pt and model_rng\.pt"):
        open_checkpoint(folder)
    file.unlink()
    assert open_checkpoint(folder).files == (file.with_name("model_rng.pt"),)


@pytest.mark.parametrize("tree", [{"args": None}, {"models": {}}, [1], {"w": torch.ones(1)}])
def test_a_file_without_a_model_is_no_checkpoint(
    tiny_megatron: Make, copy_of: Make, tree: object
) -> None:
    folder = copy_of(tiny_megatron())
    torch.save(tree, rank_file(folder, "00"))
    with pytest.raises(NotACheckpoint, match="holds no `model`"):
        open_checkpoint(folder)


def test_a_model_that_is_no_dictionary_is_refused(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron())
    torch.save({"model": [torch.ones(1)]}, rank_file(folder, "00"))
    with pytest.raises(CorruptFile, match="model is not a dictionary"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantised"])
@pytest.mark.parametrize(
    "name", ["decoder.layers.0.mlp.linear_fc2.weight", "decoder.layers.0.mlp.unheard_of"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_weight_without_plain_bytes_is_refused_and_never_left_out(
    tiny_megatron: Make, copy_of: Make, kind: str, name: str
) -> None:
    weight = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "complex": lambda: torch.ones(2, dtype=torch.complex128),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.qint8),
    }[kind]()
    folder = copy_of(tiny_megatron())
    edit_rank(rank_file(folder, "00"), lambda state: state["model"].update({name: weight}))
    with pytest.raises(UnsupportedLayout, match=f"mp_rank_00.*{name}"):
        open_checkpoint(folder)
