"""DCP's safetensors of one rank's parts each, written by DCP itself on several ranks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MissingShard,
    MixedShards,
    UnsupportedLayout,
)
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted, hf_tensors
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.saved_by_ranks import SavedByRanks

ROWS = "model.layers.0.self_attn.k_proj.weight"


def shard(folder: Path, rank: int) -> Path:
    (file,) = folder.glob(f"shard-{rank:05d}-*.safetensors")
    return file


def write(folder: Path, rank: int, tensors: dict[str, torch.Tensor], info: Any) -> Path:
    """Write a rank's file; `info` is what it states of each tensor, or a text instead."""
    file = folder / f"shard-{rank:05d}-model-00001-of-00001.safetensors"
    text = info if isinstance(info, str) else json.dumps(info)
    save_file(tensors, file, metadata={"DCP_SHARDING_INFO": text})
    return file


def refusal(path: Path, kind: type[CkptDiffError]) -> str:
    with pytest.raises(kind) as raised:
        open_checkpoint(path)
    return str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["fsdp2/hf:3", "fsdp+tp/hf:4", "hsdp/hf:4"])
def test_the_parts_of_all_ranks_are_the_model(
    saved: SavedByRanks, tmp_path: Path, job: str
) -> None:
    found = compare(saved.hf, saved(job))
    assert found.summary.verdict == "same"
    assert len(found.results) == 21
    source = hf_tensors(saved.hf)
    converted(saved(job), tmp_path / "hf", "hf")
    back = hf_tensors(tmp_path / "hf")
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)


@pytest.mark.slow
def test_a_missing_rank_is_named(saved: SavedByRanks, tmp_path: Path) -> None:
    folder = saved.own("fsdp2/hf:3", tmp_path)
    shard(folder, 2).unlink()
    told = refusal(folder, MissingShard)
    assert "a file of them is missing; there is none of rank 2" in told


@pytest.mark.slow
def test_that_the_last_rank_is_missing_is_told_by_the_config(
    saved: SavedByRanks, tmp_path: Path
) -> None:
    folder = saved.own("fsdp2/hf:3", tmp_path)
    shard(folder, 3).unlink()
    found = compare(saved.hf, folder)
    assert found.summary.verdict == "differ"
    assert len(found.b.shortfall.misfits) == 21
    assert "neither whole shapes nor how many ranks there were" in found.b.checkpoint.notes[0]


def test_without_a_config_nothing_tells_that_all_is_there_to_be_converted(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    write(source, 1, {"a.weight": torch.ones(2, 3)}, {"a.weight": {"saved_offsets": [0, 0]}})
    with pytest.raises(UnsupportedLayout, match="nothing tells whether all are there"):
        converted(source, out, "hf")
    assert not out.exists()
    converted(source, out, "hf", allow_incomplete=True)


@pytest.mark.slow
def test_one_file_alone_says_what_it_is(saved: SavedByRanks) -> None:
    told = refusal(shard(saved("fsdp2/hf:3"), 1), UnsupportedLayout)
    assert "holds one rank's part of every tensor" in told
    assert "Give the folder it is in" in told


def test_a_rank_that_had_nothing_to_save_is_no_gap(tmp_path: Path) -> None:
    for rank, at in ((1, 0), (3, 2)):
        write(tmp_path, rank, {"w": torch.ones(2, 2)}, {"w": {"saved_offsets": [at, 0]}})
    checkpoint = open_checkpoint(tmp_path)
    (ref,) = checkpoint.shards[0].tensors.values()
    assert ref.shape == (4, 2)
    assert any("no file is of rank 2" in note for note in checkpoint.notes)


def test_what_two_ranks_hold_alike_is_a_copy(tmp_path: Path) -> None:
    for rank in (1, 2):
        write(tmp_path, rank, {"w": torch.ones(2) * rank}, {"w": {"saved_offsets": [0]}})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.chunks is not None
    ((chunk,),) = checkpoint.chunks.values()
    assert len(chunk.copies) == 1


def test_weights_that_are_joined_beside_are_read_instead(tmp_path: Path) -> None:
    write(tmp_path, 2, {"w": torch.ones(2, 2)}, {"w": {"saved_offsets": [2, 0]}})
    save_file({"w": torch.ones(4, 2)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, len(checkpoint.ignored)) == ("hf", 1)


REFUSED: dict[str, tuple[object, type[CkptDiffError], str]] = {
    "overlap": ({"w": {"saved_offsets": [1, 0]}}, CorruptFile, "overlap"),
    "gap": ({"w": {"saved_offsets": [3, 0]}}, CorruptFile, "hold 8 of its 10 elements"),
    "far": ({"w": {"saved_offsets": [1 << 61, 0]}}, CorruptFile, "elements"),
    "beyond": ({"w": {"saved_offsets": [1 << 64, 0]}}, CorruptFile, "place is not stated"),
    "not stated": ({}, CorruptFile, "place is not stated"),
    "of no list": ({"w": {"saved_offsets": "ab"}}, CorruptFile, "place is not stated"),
    "of text": ({"w": {"saved_offsets": ["a", "b"]}}, CorruptFile, "place is not stated"),
    "one offset": (
        {"w": {"saved_offsets": [2]}},
        CorruptFile,
        r"'w' of shape .* is at \[2\]",
    ),
    "no JSON": ("{", CorruptFile, "is not JSON"),
    "nested": ('{"w": ' + "[" * 100_000, CorruptFile, "is not JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_contradicts_itself_is_refused(tmp_path: Path, kind: str) -> None:
    info, error, words = REFUSED[kind]
    write(tmp_path, 1, {"w": torch.ones(2, 2)}, {"w": {"saved_offsets": [0, 0]}})
    write(tmp_path, 2, {"w": torch.ones(2, 2)}, info)
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path)


def test_parts_of_two_dtypes_or_of_other_dimensions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, {"w": torch.ones(2, 2)}, {"w": {"saved_offsets": [0, 0]}})
    write(tmp_path, 2, {"w": torch.ones(2, 2).half()}, {"w": {"saved_offsets": [2, 0]}})
    assert "'w' is F16 of 2 dimensions, in shard-00001" in refusal(tmp_path, MixedShards)
    write(tmp_path, 2, {"w": torch.ones(2)}, {"w": {"saved_offsets": [2]}})
    assert "'w' is F32 of 1 dimensions, in shard-00001" in refusal(tmp_path, MixedShards)
