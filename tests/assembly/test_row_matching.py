"""Families and layouts that nobody knows: opened, browsed, paired by name or by equal rows."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckptdiff.assembly.assemble import assemble
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import compare_and_diagnose, rank_file, write_plain
from tests.support.program import ckptdiff

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


@pytest.mark.parametrize("exchanged", [False, True])
def test_equal_rows_make_a_pair_that_is_matched_and_not_the_same(
    tmp_path: Path, exchanged: bool
) -> None:
    pair = huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=1)
    found, findings = compare_and_diagnose(*(pair[::-1] if exchanged else pair))
    assert set(found.results) == set(HF)
    assert found.statuses == dict.fromkeys(set(HF) - {"shared.weight"}, "matched")
    assert (found.summary.verdict, findings) == ("matched", [])
    assert found["shared.weight"].note is None
    assert "fused[8:16]" in (found["net.0.k.weight"].note or "")
    assert any("5 of 5" in note for note in (found.a if exchanged else found.b).notes)


@pytest.mark.slow
def test_a_matched_pair_ends_in_1_and_says_so(tmp_path: Path) -> None:
    done = ckptdiff("diff", huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=1))
    assert done.returncode == 1
    assert "verdict: matched" in done.stdout
    assert "equal ones are `matched`, not `same`" in done.stdout


def test_shares_of_ranks_are_put_together_by_rows_and_by_columns(tmp_path: Path) -> None:
    found, findings = compare_and_diagnose(
        huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=2)
    )
    wanted = {**dict.fromkeys(HF, "matched"), "shared.weight": "only_a"}
    assert found.statuses == wanted
    copies = found.b.tensors["net.0.norm.weight"].pieces[0].copies
    assert [copy.rank.tp for copy in copies] == [1]
    assert [f.kind for f in findings] == ["MISSING"]


def test_one_changed_row_leaves_its_tensor_unpaired(tmp_path: Path) -> None:
    found, findings = compare_and_diagnose(
        huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=1, change=True)
    )
    assert found["net.0.q.weight"].status == "only_a"
    assert found["net.0.k.weight"].status == "matched"
    assert found["backbone.blocks.0.fused"].status == "only_b"
    by_kind = {f.kind: f for f in findings}
    assert set(by_kind) == {"MISSING", "EXTRA"}
    evidence = by_kind["MISSING"].evidence
    assert evidence.startswith("not found by content among the 1 unpaired tensor of B; compare")


def blocks(names: str, count: int = 3) -> dict[str, Tensor]:
    """Return `count` layers of two matrices of one shape; `{}` in the names is the layer."""
    generator = torch.Generator().manual_seed(9)
    return {
        names.format(layer, part): torch.randn(8, 8, generator=generator)
        for layer in range(count)
        for part in (0, 1)
    }


def unknown_pair(tmp_path: Path, stored: dict[str, Tensor], count: int = 3) -> tuple[Path, Path]:
    """Write layers under names that share no word, as Hugging Face and as Megatron do."""
    write_plain(tmp_path / "hf", blocks("net.{}.p{}.weight", count))
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    file = tmp_path / "megatron" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    args: Any = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1}
    torch.save({"args": args, "iteration": 1, "model": stored}, file)
    return tmp_path / "hf", tmp_path / "megatron"


@pytest.mark.parametrize("count", [2, 3])
def test_exchanged_layers_of_unknown_names_differ(tmp_path: Path, count: int) -> None:
    stored = blocks("trunk.{}.x{}", count)
    for part in (0, 1):
        one, other = f"trunk.0.x{part}", f"trunk.1.x{part}"
        stored[one], stored[other] = stored[other], stored[one]
    found, findings = compare_and_diagnose(*unknown_pair(tmp_path, stored, count))
    moved = {f"net.{layer}.p{part}.weight" for layer in (0, 1) for part in (0, 1)}
    assert {name for name, status in found.statuses.items() if status == "differ"} == moved
    assert [(f.kind, f.layers, set(f.tensors)) for f in findings] == [
        ("LAYER-ORDER", (0, 1), moved)
    ]
    note = found["net.0.p0.weight"].note or ""
    assert "trunk.0.x0[0:8]" in note
    assert "its own are in trunk.1.x0[0:8]" in note


def test_parts_exchanged_in_one_of_three_layers_differ(tmp_path: Path) -> None:
    stored = blocks("trunk.{}.x{}")
    stored["trunk.1.x0"], stored["trunk.1.x1"] = stored["trunk.1.x1"], stored["trunk.1.x0"]
    found, findings = compare_and_diagnose(*unknown_pair(tmp_path, stored))
    differ = {name for name, status in found.statuses.items() if status == "differ"}
    assert differ == {"net.1.p0.weight", "net.1.p1.weight"}
    assert [(f.kind, f.layers) for f in findings] == [("NAMES", (1,))]


def test_where_as_many_layers_say_one_thing_as_another_nothing_is_known(tmp_path: Path) -> None:
    stored = blocks("trunk.{}.x{}", 2)
    stored["trunk.1.x0"], stored["trunk.1.x1"] = stored["trunk.1.x1"], stored["trunk.1.x0"]
    found, findings = compare_and_diagnose(*unknown_pair(tmp_path, stored, 2))
    assert set(found.statuses.values()) == {"matched"}
    assert findings == []
    assert "net.1.p0.weight in trunk.1.x1[0:8]" in found.b.notes[-1]
    assert found.b.notes[-1].startswith("in no single layout: ")


def write_chunks(folder: Path, name: str, vector: Tensor, each: int) -> None:
    """Write a checkpoint of torch with one vector, in chunks of `each` elements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed
        dcp.state_dict_saver.save({name: vector}, checkpoint_id=folder, no_dist=True)
    (file,) = folder.glob("*.distcp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata[name]
    (whole,), (index,) = entry.chunks, list(metadata.storage_data)
    info, content = metadata.storage_data.pop(index), b""
    entry.chunks = []
    for start in range(0, len(vector), each):
        part, blob = vector[start : start + each].clone(), io.BytesIO()
        torch.save(part, blob)
        at = torch.Size([start])
        entry.chunks.append(replace(whole, offsets=at, sizes=part.shape))
        where = replace(index, offset=at, index=None)
        length = blob.getbuffer().nbytes
        metadata.storage_data[where] = replace(info, offset=len(content), length=length)
        content += blob.getvalue()
    file.write_bytes(content)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_vector_in_several_chunks_is_found(tmp_path: Path) -> None:
    """FSDP's ranks each write a range of a norm: so does the checkpoint of torch."""
    norm = torch.randn(10, generator=GENERATOR)
    folder = tmp_path / "dcp"
    write_chunks(folder, "scale", norm, 4)
    write_plain(tmp_path / "hf", {"net.norm.weight": norm})
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    found, _ = compare_and_diagnose(tmp_path / "hf", folder)
    assert found.statuses == {"net.norm.weight": "matched"}
    assert len(found.b.tensors["net.norm.weight"].pieces) == 3


@pytest.mark.slow
def test_both_open_and_say_that_no_rule_is_known(tmp_path: Path) -> None:
    for folder in (huggingface(tmp_path / "hf"), megatron(tmp_path / "megatron", tp=2)):
        done = ckptdiff("ls", folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no rules" in done.stdout


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
