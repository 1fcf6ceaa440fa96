"""FSDP's files of one rank each, written by PyTorch's own FSDP on several ranks."""

from __future__ import annotations

import sys
from shutil import copy, copytree
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import CkptDiffError, MissingShard, MixedShards, NotACheckpoint
from ckptdiff.formats import open_checkpoint, read_entries
from ckptdiff.report.ls import raw_document
from ckptdiff.tui.model.stored import held_files
from tests.support.conversions import converted, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare, compare_and_diagnose
from tests.support.saved_by_ranks import save_by_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle
    from tests.support.oracle_hf import Family
    from tests.support.saved_by_ranks import SavedByRanks

pytestmark = pytest.mark.slow
ROWS = "model.layers.0.self_attn.k_proj.weight"  # 16 of them


def part(folder: Path, rank: int) -> Path:
    (file,) = folder.glob(f"model_world_size_*_rank_{rank}.pt")
    return file


def refusal(path: Path, kind: type[CkptDiffError]) -> str:
    with pytest.raises(kind) as raised:
        open_checkpoint(path)
    return str(raised.value)


@pytest.mark.parametrize(
    "job", ["fsdp2:2", "fsdp2:7", "hsdp:4", "fsdp+tp:6", "fsdp1:3", "fsdp1-without-mesh:3"]
)
def test_the_parts_of_all_ranks_are_the_model(saved: SavedByRanks, job: str) -> None:
    found = compare(saved.hf, saved(job))
    assert found.summary.verdict == "same"
    assert len(found.results) == 21
    assert found.b.checkpoint.notes[0] == f"put together from the parts of {job[-1]} ranks"


@pytest.mark.parametrize("job", ["fsdp2:7", "fsdp+tp:6"])
def test_a_conversion_writes_the_same_bytes(saved: SavedByRanks, tmp_path: Path, job: str) -> None:
    source = hf_tensors(saved.hf)
    converted(saved(job), tmp_path / "hf", "hf")
    back = hf_tensors(tmp_path / "hf")
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)
    converted(saved(job), tmp_path / "megatron", "megatron", tp=2, pp=2)
    assert compare(saved.hf, tmp_path / "megatron").summary.verdict == "same"


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("mixtral", False)])
def test_a_model_of_transformers_is_put_together(
    oracle: Oracle, tmp_path: Path, family: Family, tied: bool
) -> None:
    make_hf(tmp_path / "hf", family, tied=tied, single=True)
    save_by_ranks(oracle.python, tmp_path / "hf", tmp_path, "fsdp2:3")
    copytree(tmp_path / "hf", tmp_path / "fsdp2:3" / "huggingface")
    (tmp_path / "fsdp2:3" / "huggingface" / "model.safetensors").unlink()
    found = compare(tmp_path / "hf", tmp_path / "fsdp2:3")
    assert found.summary.verdict == "same"
    assert found.b.family == family
    converted(tmp_path / "fsdp2:3", tmp_path / "megatron", "megatron", tp=2)
    assert compare(tmp_path / "hf", tmp_path / "megatron").summary.verdict == "same"


def test_a_rank_that_is_left_without_a_part_is_no_gap(saved: SavedByRanks) -> None:
    checkpoint = open_checkpoint(saved("fsdp2:7"))
    assert checkpoint.chunks is not None
    ref = checkpoint.shards[0].tensors[ROWS]
    rows = [chunk.box[0] for chunk in checkpoint.chunks[ref]]
    assert rows == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 16)]


def test_what_one_half_of_the_ranks_repeats_is_compared(
    saved: SavedByRanks, tmp_path: Path
) -> None:
    folder = saved.own("hsdp:4", tmp_path)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.chunks is not None
    chunk = checkpoint.chunks[checkpoint.shards[0].tensors[ROWS]][1]
    (copy,) = chunk.copies
    assert (chunk.ref.file, copy.file) == (part(folder, 1), part(folder, 3))
    content = bytearray(copy.file.read_bytes())
    content[copy.offset] ^= 1
    copy.file.write_bytes(content)
    found, (finding,) = compare_and_diagnose(saved.hf, folder)
    assert list(found.statuses) == [ROWS]
    note = found[ROWS].note or ""
    assert "rank_3.pt" in note
    assert "rank_1.pt" in note
    assert (finding.kind, finding.title) == (
        "REPLICA",
        "replicas of one tensor differ between ranks",
    )


def test_what_is_repeated_is_listed_in_its_files(saved: SavedByRanks) -> None:
    side = assemble(open_checkpoint(saved("hsdp:4")))
    listed = raw_document(side, lambda name: True)["files"]
    assert len(listed) == 4
    assert {len(file["tensors"]) for file in listed} == {21}
    held = held_files(side).files
    assert {len(file.tensors) for file in held} == {21}
    assert sum(row.copy_of is not None for file in held for row in file.tensors) == 2 * 21


def test_missing_ranks_are_named(saved: SavedByRanks, tmp_path: Path) -> None:
    folder = saved.own("fsdp2:7", tmp_path)
    part(folder, 2).unlink()
    part(folder, 6).unlink()
    told = refusal(folder, MissingShard)
    assert told == f"{folder}: the files of 2 of 7 ranks are missing: rank 2, 6. Copy them here"


def test_one_file_alone_says_whose_part_it_is(saved: SavedByRanks) -> None:
    told = refusal(part(saved("fsdp2:2"), 1), NotACheckpoint)
    assert "holds the part of rank 1 of 2. Give the folder it is in" in told


def test_files_of_two_saves_are_told(saved: SavedByRanks, tmp_path: Path) -> None:
    folder = saved.own("fsdp1:3", tmp_path)
    for file in saved("fsdp2:2").glob("*.pt"):
        (folder / file.name).write_bytes(file.read_bytes())
    assert "holds files of saves by 2 and 3 ranks" in refusal(folder, MixedShards)


@pytest.mark.parametrize("job", ["fsdp2:2", "fsdp1-without-mesh:3"])
def test_a_rank_that_is_there_twice_is_told(saved: SavedByRanks, tmp_path: Path, job: str) -> None:
    folder = saved.own(job, tmp_path)
    part(folder, 1).write_bytes(part(folder, 0).read_bytes())
    assert "rank_1.pt: holds what rank 0 saved" in refusal(folder, MixedShards)


def test_ranks_that_disagree_are_told(saved: SavedByRanks, tmp_path: Path) -> None:
    folder = saved.own("fsdp1:3", tmp_path)
    part(folder, 1).write_bytes(part(saved("fsdp1-without-mesh:3"), 1).read_bytes())
    told = refusal(folder, MixedShards)
    assert "rank_1.pt: " in told
    assert "the files are of different saves" in told


def test_verls_folder_has_its_config_and_more_beside(saved: SavedByRanks, tmp_path: Path) -> None:
    folder = saved.own("fsdp2:2", tmp_path)
    (folder / "huggingface").mkdir()
    (folder / "config.json").rename(folder / "huggingface" / "config.json")
    (folder / "huggingface" / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    for rank in (0, 1):
        torch.save({"state": {}}, folder / f"optim_world_size_2_rank_{rank}.pt")
        torch.save({"rng": 1}, folder / f"extra_state_world_size_2_rank_{rank}.pt")
    converted(folder, tmp_path / "hf", "hf")
    assert (tmp_path / "hf" / "tokenizer_config.json").exists()
    found = compare(saved.hf, folder)
    assert found.b.family == "llama"
    assert found.b.checkpoint.token_files["tokenizer_config.json"] == {"bos_token": "<s>"}
    assert "not compared: extra_state_…, optim_…" in found.b.checkpoint.notes
    assert [entry.name for entry in read_entries(found.b.checkpoint)] == [
        f"{kind}_world_size_2_rank_{rank}.pt"
        for kind in ("extra_state", "optim")
        for rank in (0, 1)
    ]


def test_plain_tensors_are_on_all_ranks_alike(tmp_path: Path) -> None:
    for rank in (0, 1):
        torch.save({"b": torch.ones(3), "n": 1}, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.chunks is not None
    ((chunk,),) = checkpoint.chunks.values()
    assert len(chunk.copies) == 1
    torch.save({"b": torch.ones(4)}, tmp_path / "model_world_size_2_rank_1.pt")
    assert "'b' is F32 [4], in model_world_size_2_rank_0.pt it is F32 [3]" in refusal(
        tmp_path, MixedShards
    )
    torch.save({"c": torch.ones(3)}, tmp_path / "model_world_size_2_rank_1.pt")
    assert "rank_1.pt: lacks 'b', which model_world_size_2_rank_0.pt has" in refusal(
        tmp_path, MixedShards
    )


@pytest.mark.parametrize("job", ["fsdp2:2", "hsdp:4", "fsdp2/hf:3"])
def test_the_file_of_another_save_is_named(saved: SavedByRanks, tmp_path: Path, job: str) -> None:
    weights = hf_tensors(saved.hf)
    later = {n: w + w.float().std() / 9 * torch.randn_like(w) for n, w in weights.items()}
    save_file(later, tmp_path / "later.safetensors")
    save_by_ranks(sys.executable, tmp_path / "later.safetensors", tmp_path / "later", job)
    others = sorted((tmp_path / "later" / job.replace("/", "-")).iterdir())
    folder = saved.own(job, tmp_path)
    copy(others[1], folder)
    _, (finding,) = compare_and_diagnose(saved.hf, folder)
    assert (finding.kind, finding.severity) == ("STALE", "fault")
    assert finding.title == f"all that differs lies in {others[1].name}"
    assert len(finding.tensors) == len(weights)
    for file in others:
        copy(file, folder)
    _, (finding, *_) = compare_and_diagnose(saved.hf, folder)
    assert "lies in" not in finding.title


def test_the_key_that_is_read_is_said_and_what_has_weights_beside(tmp_path: Path) -> None:
    state = {"model": {"b": torch.ones(3)}, "ema": {"b": torch.zeros(3)}}
    for rank in (0, 1):
        torch.save(state, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    assert open_checkpoint(tmp_path).notes[:2] == (
        "put together from the parts of 2 ranks",
        "the weights under 'model' in model_world_size_2_rank_0.pt are read; 'ema' has weights as "
        "well",
    )


def test_weights_beside_that_are_not_read_are_named(tmp_path: Path) -> None:
    torch.save({"b": torch.ones(3)}, tmp_path / "model_world_size_1_rank_0.pt")
    save_file({"b": torch.zeros(3)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.ignored == (tmp_path / "model.safetensors",)
    assert "also here, not read: model.safetensors" in checkpoint.notes
