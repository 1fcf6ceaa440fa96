"""Families and layouts that nobody knows: opened, browsed, and paired by name or equal rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import rank_file, write_plain
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]

GENERATOR = torch.Generator().manual_seed(7)
HF: dict[str, Tensor] = {
    "net.wte.weight": torch.randn(24, 8, generator=GENERATOR),
    "net.0.q.weight": torch.randn(8, 8, generator=GENERATOR),
    "net.0.k.weight": torch.randn(8, 8, generator=GENERATOR),
    "net.0.out.weight": torch.randn(8, 8, generator=GENERATOR),
    "net.0.norm.weight": torch.randn(8, generator=GENERATOR),
    "shared.weight": torch.randn(6, 4, generator=GENERATOR),
}


def huggingface(folder: Path) -> Path:
    write_plain(folder, HF)
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    return folder


def megatron(folder: Path, *, tp: int, change: bool = False) -> Path:
    """Fuse q and k by halves in each rank, under names of no family; cut `out` by columns."""
    for rank in range(tp):

        def share(name: str, dim: int = 0, rank: int = rank) -> Tensor:
            return HF[name].chunk(tp, dim)[rank].clone()

        model = {
            "backbone.tokens": share("net.wte.weight"),
            "backbone.blocks.0.fused": torch.cat(
                [share("net.0.q.weight"), share("net.0.k.weight")]
            ),
            "backbone.blocks.0.out": share("net.0.out.weight", 1),
            "backbone.blocks.0.scale": HF["net.0.norm.weight"].clone(),
        }
        if tp == 1:
            model["shared.weight"] = HF["shared.weight"].clone()
        if change:
            model["backbone.blocks.0.fused"][0, 0] += 1
        file = folder / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        args: Any = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": 1}
        torch.save({"args": args, "iteration": 1, "model": model}, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


def test_one_ranks_file_is_taken_as_it_is(tiny_megatron: Make) -> None:
    file = rank_file(tiny_megatron(tp=2, pp=1), "01")
    checkpoint = open_checkpoint(file)
    side = assemble(checkpoint)
    assert side.tensors.keys() == checkpoint.shards[0].tensors.keys()
    assert not side.errors
    assert not side.unmapped
    assert side.notes == (
        "it has one rank's share of each tensor: each stored tensor is taken by itself",
    )
    done = ckptdiff("diff", file, file)
    assert (done.returncode, "verdict: same" in done.stdout) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize("exchanged", [False, True])
def test_equal_rows_are_paired_whatever_they_are_called(tmp_path: Path, exchanged: bool) -> None:
    pair = huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=1)
    done = ckptdiff("diff", *(pair[::-1] if exchanged else pair), "--json", "-")
    found = document(done)
    assert found["counts"]["same"] == len(HF)
    assert found["verdict"] == "same"
    assert done.returncode == 0
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert by_name["shared.weight"]["note"] is None
    assert "fused[8:16]" in by_name["net.0.k.weight"]["note"]
    notes = found["a" if exchanged else "b"]["notes"]
    assert any("no rule was used: 5 of 5" in note for note in notes)


@pytest.mark.slow
def test_shares_of_ranks_are_put_together_and_columns_are_left_over(tmp_path: Path) -> None:
    pair = huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=2)
    done = ckptdiff("diff", *pair, "--json", "-")
    found = document(done)
    statuses = {tensor["name"]: tensor["status"] for tensor in found["tensors"]}
    assert {name for name, status in statuses.items() if status == "same"} == {
        "net.wte.weight",
        "net.0.q.weight",
        "net.0.k.weight",
        "net.0.norm.weight",
    }
    assert statuses["net.0.out.weight"] == statuses["shared.weight"] == "only_a"
    assert statuses["backbone.blocks.0.out [tp 0]"] == "only_b"
    assert statuses["backbone.blocks.0.out [tp 1]"] == "only_b"
    assert (found["verdict"], done.returncode) == ("differ", 1)


@pytest.mark.slow
def test_one_changed_row_leaves_its_tensor_unpaired(tmp_path: Path) -> None:
    pair = huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=1, change=True)
    done = ckptdiff("diff", *pair, "--json", "-")
    statuses = {t["name"]: t["status"] for t in document(done)["tensors"]}
    assert statuses["net.0.q.weight"] == "only_a"
    assert statuses["net.0.k.weight"] == "same"
    assert statuses["backbone.blocks.0.fused"] == "only_b"
    assert done.returncode == 1


@pytest.mark.slow
def test_both_open_and_say_that_no_rule_is_known(tmp_path: Path) -> None:
    for folder in (huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=2)):
        done = ckptdiff("ls", folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no rules" in done.stdout
    done = ckptdiff("diff", tmp_path / "hf", tmp_path / "megatron")
    assert done.returncode == 1
    assert "no rule was used" in done.stdout


def test_no_tensor_of_an_unknown_layout_is_lost(tmp_path: Path) -> None:
    """Stages and virtual chunks count from 0 each: equal names are other tensors."""
    for stage in range(2):
        file = tmp_path / "iter_0000001" / f"mp_rank_00_{stage:03d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        args: Any = {
            "tensor_model_parallel_size": 1,
            "pipeline_model_parallel_size": 2,
            "virtual_pipeline_model_parallel_size": 2,
        }
        models = {f"model{n}": {"blocks.0.w": torch.ones(2, 2) * (2 * stage + n)} for n in (0, 1)}
        torch.save({"args": args, "iteration": 1, **models}, file)
    side = assemble(open_checkpoint(tmp_path))
    assert set(side.tensors) == {
        "blocks.0.w [tp 0]",
        "blocks.0.w [tp 0 chunk 1]",
        "blocks.0.w [tp 0 pp 1]",
        "blocks.0.w [tp 0 pp 1 chunk 1]",
    }
