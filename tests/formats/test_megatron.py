"""Megatron's torch format: ranks, stages and chunks, and all that is not a weight."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ckptdiff.checkpoint import Parallelism, Rank
from ckptdiff.errors import CkptDiffError, CorruptFile, MissingShard, NotACheckpoint
from ckptdiff.formats import open_checkpoint, read_entries
from tests.support.pairs import edit_rank, load_rank, rank_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.checkpoint import Checkpoint, TensorRef

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
TRACKER = "latest_checkpointed_iteration.txt"
MIXTRAL: dict[str, Any] = {"family": "mixtral", "layers": 2}


def ranks(checkpoint: Checkpoint) -> list[tuple[int, int, int, int]]:
    return [(s.rank.tp, s.rank.pp, s.rank.ep, s.chunk) for s in checkpoint.shards]


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def read(ref: TensorRef) -> Tensor:
    """Read a tensor at its place by torch: all bytes of its file, seen through its strides."""
    dtype = {"BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8}[ref.dtype]
    content = bytearray(ref.file.read_bytes()[ref.offset :])
    content = content[: len(content) // dtype.itemsize * dtype.itemsize]
    return torch.frombuffer(content, dtype=dtype).as_strided(ref.shape, ref.stride)


@pytest.mark.parametrize("names", ["mcore", "te", "legacy"])
@pytest.mark.parametrize(
    "layout",
    [{}, {"tp": 2}, {"tp": 2, "pp": 2}, {"pp": 2, "vpp": 2}, {"tp": 2, "views": True}],
    ids=str,
)
def test_every_tensor_lies_where_torch_finds_it(
    tiny_megatron: Make, names: str, layout: dict[str, Any]
) -> None:
    extra = {"extra_state": "tensor"} if names == "te" else {}
    folder = tiny_megatron(model={"layers": 4}, names=names, **layout, **extra)
    checkpoint = open_checkpoint(folder)
    for shard in checkpoint.shards:
        (file,) = {ref.file for ref in shard.tensors.values()}
        state = load_rank(file)
        model = state["model" if layout.get("vpp", 1) == 1 else f"model{shard.chunk}"]
        wanted = {
            name: tensor
            for name, tensor in leaves(model)
            if torch.is_tensor(tensor) and "_extra_state" not in name
        }
        assert list(shard.tensors) == list(wanted)
        for name, tensor in wanted.items():
            found = read(shard.tensors[name])
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor), name


LAYOUTS: list[tuple[dict[str, Any], Parallelism, list[tuple[int, int, int, int]]]] = [
    ({}, Parallelism(), [(0, 0, 0, 0)]),
    ({"tp": 2}, Parallelism(tp=2), [(0, 0, 0, 0), (1, 0, 0, 0)]),
    ({"pp": 2}, Parallelism(pp=2), [(0, 0, 0, 0), (0, 1, 0, 0)]),
    (
        {"tp": 2, "pp": 2},
        Parallelism(tp=2, pp=2),
        [(0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0)],
    ),
    (
        {"pp": 2, "vpp": 2, "layers_per_stage": [1, 0, 0, 1]},
        Parallelism(pp=2, vpp=2),
        [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 1, 0, 1)],
    ),
]
MOE_LAYOUTS: list[tuple[dict[str, Any], Parallelism, list[tuple[int, int, int, int]]]] = [
    ({"ep": 2}, Parallelism(ep=2), [(0, 0, 0, 0), (0, 0, 1, 0)]),
    ({"pp": 2}, Parallelism(pp=2), [(0, 0, 0, 0), (0, 1, 0, 0)]),
    (
        {"tp": 2, "ep": 2},
        Parallelism(tp=2, ep=2, etp=2),
        [(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0), (1, 0, 1, 0)],
    ),
    (
        {"pp": 2, "ep": 2},
        Parallelism(pp=2, ep=2),
        [(0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 1, 1, 0)],
    ),
]


@pytest.mark.parametrize(
    ("model", "layout", "sizes", "places"),
    [({}, *case) for case in LAYOUTS] + [(MIXTRAL, *case) for case in MOE_LAYOUTS],
    ids=str,
)
def test_ranks_are_read_off_the_names_of_their_folders(
    tiny_megatron: Make,
    model: dict[str, Any],
    layout: dict[str, Any],
    sizes: Parallelism,
    places: list[tuple[int, int, int, int]],
) -> None:
    checkpoint = open_checkpoint(tiny_megatron(model=model, **layout))
    assert checkpoint.parallelism == sizes
    assert ranks(checkpoint) == places
    assert checkpoint.format == "megatron"
    assert len(checkpoint.files) == len({place[:3] for place in places})


@pytest.mark.parametrize(
    ("case", "places"),
    [
        ("tp2-pp1-ep2-etp1", [(0, 0), (1, 1)]),
        ("tp2-pp1-ep4-etp1", [(0, 0), (0, 2), (1, 1), (1, 3)]),
        ("tp4-pp1-ep2-etp2", [(0, 0), (1, 0), (2, 1), (3, 1)]),
    ],
)
def test_a_grid_of_experts_may_be_sparse(
    corpus: Path, case: str, places: list[tuple[int, int]]
) -> None:
    checkpoint = open_checkpoint(corpus / f"mixtral-etp/megatron-{case}-torch")
    assert sorted((s.rank.tp, s.rank.ep) for s in checkpoint.shards) == places


# Where a checkpoint is


def test_a_checkpoint_is_found_from_above_from_inside_and_as_a_file(tiny_megatron: Make) -> None:
    folder = tiny_megatron(iteration=7)
    inside = folder / "iter_0000007"
    file = inside / "mp_rank_00/model_optim_rng.pt"
    above, itself, alone = (open_checkpoint(path) for path in (folder, inside, file))
    assert above == itself
    assert (above.root, above.iteration) == (inside, 7)
    assert (alone.root, alone.iteration, alone.shards) == (file, 7, above.shards)


@pytest.mark.parametrize("text", ["7", "7\n", " 7 ", "0000007"])
def test_the_tracker_names_the_iteration(tiny_megatron: Make, copy_of: Make, text: str) -> None:
    folder = copy_of(tiny_megatron(iteration=7))
    shutil.copytree(folder / "iter_0000007", folder / "iter_0000009")
    (folder / TRACKER).write_text(text)
    assert open_checkpoint(folder).root.name == "iter_0000007"


def test_a_release_is_found_and_named(tiny_megatron: Make) -> None:
    folder = tiny_megatron(iteration="release")
    for path in (folder, folder / "release"):
        assert open_checkpoint(path).root == folder / "release"
        assert open_checkpoint(path).iteration in ("release", 0)


def test_the_only_iteration_needs_no_tracker(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron())
    (folder / TRACKER).unlink()
    assert open_checkpoint(folder).root == folder / "iter_0000001"


def test_one_of_several_iterations_must_be_named(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron())
    shutil.copytree(folder / "iter_0000001", folder / "iter_0000002")
    (folder / TRACKER).unlink()
    with pytest.raises(NotACheckpoint, match="iter_0000001, iter_0000002 and no latest_check"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "error"),
    [("", CorruptFile), ("latest", CorruptFile), ("-1", CorruptFile), ("../x", CorruptFile),
     ("1.5", CorruptFile), ("²", CorruptFile), ("2", MissingShard), ("release", MissingShard)],
)  # fmt: skip
def test_a_tracker_that_leads_nowhere_is_refused_by_its_name(
    tiny_megatron: Make, copy_of: Make, text: str, error: type[CkptDiffError]
) -> None:
    folder = copy_of(tiny_megatron())
    (folder / TRACKER).write_text(text)
    with pytest.raises(error, match=TRACKER):
        open_checkpoint(folder)


def test_an_iteration_that_is_not_there_is_named_with_those_that_are(
    tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron())
    (folder / TRACKER).write_text("12")
    with pytest.raises(MissingShard, match=r"names iter_0000012.*found iter_0000001"):
        open_checkpoint(folder)


def test_one_ranks_file_is_opened_alone_and_says_that_it_is_one_of_many(
    tiny_megatron: Make,
) -> None:
    file = rank_file(tiny_megatron(tp=2, pp=2), "01_001")
    checkpoint = open_checkpoint(file)
    assert ranks(checkpoint) == [(1, 1, 0, 0)]
    assert checkpoint.notes == ("one rank's file of TP 2 PP 2",)


@pytest.mark.parametrize("moved", ["args", "iteration", "model", "optimizer", "rng_state"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_the_order_of_what_a_rank_file_holds_makes_no_difference(
    tiny_megatron: Make, copy_of: Make, moved: str, where: str
) -> None:
    folder = copy_of(tiny_megatron(model={"layers": 4}, pp=2, vpp=2))
    wanted = open_checkpoint(folder)
    for file in folder.glob("*/*/*.pt"):
        state = load_rank(file)
        state |= {"optimizer": {"state": {0: torch.ones(3)}, "model": 1}, "rng_state": ["args"]}
        here = [key for key in state if key.startswith(moved)]
        others = [key for key in state if key not in here and key != "rerun_state_machine"]
        keys = [*here, *others] if where == "first" else [*others, *here]
        torch.save({key: state[key] for key in keys}, file)
    found = open_checkpoint(folder)
    assert found.config is not None
    assert found.config["num_layers"] == 4
    assert (found.parallelism, found.iteration) == (wanted.parallelism, wanted.iteration)
    assert [list(s.tensors) for s in found.shards] == [list(s.tensors) for s in wanted.shards]


# What is there beside the weights


def test_arguments_are_plain_values(tiny_megatron: Make) -> None:
    checkpoint = open_checkpoint(tiny_megatron(tp=2))
    config = dict(checkpoint.config or {})
    assert (config["hidden_size"], config["num_query_groups"], config["swiglu"]) == (32, 2, True)
    assert config["params_dtype"] == "torch.bfloat16"
    assert config["cp_comm_type"] == ["p2p"]
    assert config["virtual_pipeline_model_parallel_size"] is None
    assert "ModelType" in config["model_type"]
    texts = {entry.name: entry.text for entry in read_entries(checkpoint)}
    assert texts["args.hidden_size"] == "32"
    assert sum(name == "args.hidden_size" for name in texts) == 1


def test_numbers_of_numpy_are_read_as_numbers(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron())
    given = {
        "swiglu": np.bool_(False),
        "num_layers": np.int64(-2),
        "norm_epsilon": np.float32(0.5),
        "rotary_base": np.float64(1e6),
        "no_rope_freq": [np.int32(0), np.uint8(1)],
        "window_size": np.array([7, 0]),
    }
    (file,) = folder.rglob("model_optim_rng.pt")
    edit_rank(file, lambda state: vars(state["args"]).update(given))
    config = open_checkpoint(folder).config or {}
    found = {name: config[name] for name in list(given)[:-1]}
    assert found == {
        "swiglu": False, "num_layers": -2, "norm_epsilon": 0.5, "rotary_base": 1e6,
        "no_rope_freq": [0, 1],
    }  # fmt: skip
    assert found["swiglu"] is False
    assert "numpy" in str(config["window_size"])  # an array is shown and not read


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [({}, Parallelism()), ({"tp": 2}, Parallelism(tp=2)), ({"pp": 2}, Parallelism(pp=2)),
     ({"tp": 2, "pp": 2}, Parallelism(tp=2, pp=2))],
    ids=str,
)  # fmt: skip
def test_without_arguments_there_is_no_config_and_the_folders_tell_the_ranks(
    tiny_megatron: Make, copy_of: Make, layout: dict[str, Any], sizes: Parallelism
) -> None:
    folder = copy_of(tiny_megatron(**layout))
    for file in folder.glob("*/*/*.pt"):
        edit_rank(file, lambda state: state.pop("args"))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config is None
    assert checkpoint.parallelism == sizes


@pytest.mark.parametrize("extra", ["none", "bytesio", "tensor"])
def test_extra_states_are_entries_and_no_weights(tiny_megatron: Make, extra: str) -> None:
    plain = open_checkpoint(tiny_megatron(names="te"))
    checkpoint = open_checkpoint(tiny_megatron(names="te", extra_state=extra))
    assert [list(s.tensors) for s in checkpoint.shards] == [list(s.tensors) for s in plain.shards]
    extras = [e for e in read_entries(checkpoint) if e.name.endswith("_extra_state")]
    name = "model.decoder.layers.1.mlp.linear_fc1._extra_state"
    assert [e.name for e in extras].count(name) == 1
    kinds = {"none": "value", "bytesio": "opaque", "tensor": "tensor"}
    assert next(e for e in extras if e.name == name).kind == kinds[extra]


def test_optimizer_and_random_states_are_entries_of_every_rank(tiny_megatron: Make) -> None:
    checkpoint = open_checkpoint(tiny_megatron(tp=2, optimizer=True))
    entries = {entry.name: entry for entry in read_entries(checkpoint)}
    assert len(entries) == len(read_entries(checkpoint))
    for prefix in ("", "mp_rank_01/"):
        moment = entries[f"{prefix}optimizer.optimizer.state.0.exp_avg"]
        assert (moment.kind, moment.text) == ("tensor", "F32 32")
        assert entries[f"{prefix}optimizer.optimizer.param_groups.0.lr"].text == "0.001"
        assert entries[f"{prefix}rng_state.0.torch_rng_state"].kind == "tensor"
        assert entries[f"{prefix}opt_param_scheduler.num_steps"].text == "2"
    assert not any("exp_avg" in name for shard in checkpoint.shards for name in shard.tensors)


def test_a_distributed_optimizer_is_an_entry_with_its_size(tiny_megatron: Make) -> None:
    folder = tiny_megatron(tp=2, optimizer="distributed")
    checkpoint = open_checkpoint(folder)
    entries = {entry.name: entry.text for entry in read_entries(checkpoint)}
    size = rank_file(folder, "01").with_name("distrib_optim.pt").stat().st_size
    assert str(size) in entries["mp_rank_01/distrib_optim.pt"]
    assert len(checkpoint.files) == 2


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_native_names_stay_as_the_file_spells_them(tiny_megatron: Make, prefix: str) -> None:
    (shard,) = open_checkpoint(tiny_megatron(prefix=prefix)).shards
    assert all(name.startswith(prefix) for name in shard.tensors)
    assert all(ref.name == name for name, ref in shard.tensors.items())


def test_progress_counts_every_rank_once(tiny_megatron: Make) -> None:
    calls: list[tuple[int, int]] = []
    open_checkpoint(tiny_megatron(tp=2, pp=2), progress=lambda done, of: calls.append((done, of)))
    assert calls == [(n, 4) for n in range(1, 5)]


def test_a_rank_number_of_three_digits_is_read(tiny_megatron: Make) -> None:
    model = {"heads": 128, "groups": 128, "head_dim": 2, "ffn": 128, "hidden": 4, "layers": 1}
    checkpoint = open_checkpoint(tiny_megatron(model=model, tp=128, divisible_by=1))
    assert checkpoint.shards[-1].rank == Rank(127)
    assert len(checkpoint.shards) == 128
