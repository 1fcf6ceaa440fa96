"""The rank files of every grid are those of megatron-core's own processes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from math import lcm
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.checkpoint import Parallelism, Rank
from ckptdiff.errors import MissingShard
from ckptdiff.formats import open_checkpoint
from ckptdiff.formats.megatron import saved_sets
from tests.support.conversions import converted, different, hf_tensors, torch_loads
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

Files = dict[Rank, set[int]]  # by file, the slices of experts of the processes that have it


def files_of(processes: list[list[int]]) -> Files:
    found: Files = defaultdict(set)
    for tp, pp, ep, expert_slice in processes:
        found[Rank(tp, pp, ep)].add(expert_slice)
    return found


@pytest.mark.oracle
@pytest.mark.parametrize(
    "most",
    [
        {"tp": 6, "cp": 4, "ep": 6, "etp": 6, "pp": 1, "replicas": 1},
        {"tp": 3, "cp": 2, "ep": 3, "etp": 3, "pp": 3, "replicas": 2},
    ],
    ids=["up to 6", "stages and replicas"],
)
def test_every_grid_has_the_files_of_its_processes(oracle: Oracle, most: dict[str, int]) -> None:
    found: Any = oracle.compare("oracle_grids", ranks=1, sizes=most)
    several = sparse = partial = lost = 0
    for each in found:
        sizes = each["sizes"]
        size = Parallelism(tp=sizes["tp"], pp=sizes["pp"], ep=sizes["ep"], etp=sizes["etp"])
        loaded = files_of(each["loaded"])
        assert sorted(size.ranks()) == sorted(loaded), sizes
        assert size.processes * sizes["pp"] >= len(loaded), sizes
        sparse += len(loaded) < size.tp * size.ep * size.pp
        shared = any(len(slices) > 1 for slices in loaded.values())
        assert size.shares_files == shared, sizes
        several += shared
        if not shared:
            assert {rank: {size.expert_slice(rank)} for rank in loaded} == loaded, sizes
        # What Megatron saves is read: unless it saved the slices of two processes in one file, or
        # not every tensor rank of what is no expert.
        possible = saved_sets(size, sizes["cp"])
        for saved in (files_of(each["saved"]), files_of(each["saved_since"])):
            whole = {rank.tp for rank in saved} == set(range(size.tp))
            assert (saved.keys() in possible) == whole, sizes
            lost += not whole
            partial += whole and saved.keys() != loaded.keys()
            if whole and all(len(slices) == 1 for slices in saved.values()):
                assert {rank: {size.expert_slice(rank)} for rank in saved} == saved, sizes
    # There are grids of each kind.
    assert min(several, sparse, partial, lost) > 0


EXPERTS = 12
GRIDS = [(2, 3, 1), (3, 3, 2), (4, 4, 3), (4, 1, 2), (6, 2, 3), (2, 2, 1)]  # TP, EP, ETP


def indices(process: int, tp: int, ep: int, etp: int) -> tuple[int, int, int]:
    """Return a process's tensor, expert and expert tensor index, by Megatron's order."""
    return process % tp, process // etp % ep, process % etp


@pytest.mark.parametrize(("tp", "ep", "etp"), GRIDS)
def test_each_file_holds_the_slices_of_its_process(
    tmp_path: Path, tp: int, ep: int, etp: int
) -> None:
    weights = make_hf(
        tmp_path / "hf", "mixtral", layers=1, hidden=24, heads=12, groups=12, experts=EXPERTS
    )
    converted(
        tmp_path / "hf", tmp_path / "out", "megatron",
        tp=tp, ep=ep, etp=etp, names="mcore", vocab_divisible_by=1,
    )  # fmt: skip
    folder = tmp_path / "out/iter_0000001"
    read = set()
    for process in range(lcm(tp, etp * ep)):
        t, e, part = indices(process, tp, ep, etp)
        file = folder / (f"mp_rank_{t:02d}" + (f"_{e:03d}" if ep > 1 else ""))
        model = torch_loads(file / "model_optim_rng.pt")["model"]
        read.add(file.name)
        here = EXPERTS // ep
        for number in range(here):
            hf = f"model.layers.0.block_sparse_moe.experts.{e * here + number}"
            gate, up, down = (weights[f"{hf}.{name}.weight"] for name in ("w1", "w3", "w2"))
            held = f"decoder.layers.0.mlp.experts.local_experts.{number}"
            fc1 = torch.cat([gate.chunk(etp)[part], up.chunk(etp)[part]])
            assert torch.equal(model[f"{held}.linear_fc1.weight"], fc1)
            assert torch.equal(model[f"{held}.linear_fc2.weight"], down.chunk(etp, 1)[part])
        o_proj = weights["model.layers.0.self_attn.o_proj.weight"].chunk(tp, 1)[t]
        assert torch.equal(model["decoder.layers.0.self_attention.linear_proj.weight"], o_proj)
    assert read == {path.name for path in folder.iterdir()}
    converted(tmp_path / "out", tmp_path / "back", "hf", like=tmp_path / "hf")
    assert different(hf_tensors(tmp_path / "back"), weights) == []


@pytest.mark.parametrize(
    ("cp", "processes", "is_read"),
    [(1, 3, True), (2, 4, True), (2, 3, True), (1, 4, False), (1, 2, False), (1, 5, False)],
)
def test_a_folder_that_megatron_saved_and_cannot_load_is_read(
    tmp_path: Path, cp: int, processes: int, is_read: bool
) -> None:
    """With TP 2, EP 3, ETP 1 six processes load, the first ETP x EP or TP x CP save."""
    make_hf(tmp_path / "hf", "mixtral", layers=1, experts=6)
    options = {"tp": 2, "ep": 3, "etp": 1, "names": "mcore"}
    converted(tmp_path / "hf", tmp_path / "out", "megatron", **options)  # type: ignore[arg-type]
    folder = tmp_path / "out/iter_0000001"
    kept = {indices(process, 2, 3, 1)[:2] for process in range(processes)}
    for rank in folder.iterdir():
        t, e = map(int, rank.name.removeprefix("mp_rank_").split("_"))
        if (t, e) not in kept:
            shutil.rmtree(rank)
            continue
        state = torch_loads(rank / "model_optim_rng.pt")
        state["args"].context_parallel_size = cp
        torch.save(state, rank / "model_optim_rng.pt")
    assert len(list(folder.iterdir())) == processes
    if not is_read:
        with pytest.raises(MissingShard, match=f"found {processes} of 6 ranks"):
            open_checkpoint(tmp_path / "out")
        return
    (note,) = open_checkpoint(tmp_path / "out").notes
    assert note.startswith(f"{processes} of the 6 rank files of TP 2 PP 1 EP 3 ETP 1")
    comparison = compare(tmp_path / "hf", tmp_path / "out")
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")
