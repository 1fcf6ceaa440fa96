"""Which files of a Hugging Face folder are read: those that transformers loads, in its order."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import (
    CorruptFile,
    MissingShard,
    MixedShards,
    UnsupportedLayout,
)
from ckptdiff.formats import open_checkpoint
from ckptdiff.formats.hub.links import leads_out
from ckptdiff.report.diff import side_document
from ckptdiff.report.listed import verdict_words
from ckptdiff.report.ls import listing_document
from tests.support.conversions import converted, hf_tensors
from tests.support.oracle_hf import make_hf, split, write_weights
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

EMBEDDING = "model.embed_tokens.weight"
# What a save leaves, by the arguments of `make_hf`, in the order in which transformers looks.
SAVES: list[dict[str, Any]] = [
    {"kind": "safetensors", "single": True},
    {"kind": "safetensors", "single": False},
    {"kind": "bin", "single": True},
    {"kind": "bin", "single": False},
]
PAIRS = [(first, last) for first in range(4) for last in range(first + 1, 4)]


def saved_twice(folder: Path, first: int, last: int) -> None:
    """Write two saves into a folder; the embedding's first number is 1 + the save's number."""
    for number in (last, first):
        weights = make_hf(folder, **SAVES[number])
        weights[EMBEDDING].fill_(1.0 + number)
        total = sum(w.nbytes for w in weights.values())
        single, kind = SAVES[number]["single"], SAVES[number]["kind"]
        parts = split(weights, total if single else total // 2 + 1)
        write_weights(folder, parts, kind=kind, index=not single)


def first_number(folder: Path) -> float:
    """Return the first number of the embedding that is read."""
    ref = open_checkpoint(folder).shards[0].tensors[EMBEDDING]
    raw = ref.file.read_bytes()[ref.offset : ref.offset + ref.nbytes]
    return float(torch.frombuffer(bytearray(raw), dtype=torch.bfloat16)[0])


def names(paths: Iterable[Path]) -> list[str]:
    return sorted(path.name for path in paths)


@pytest.mark.parametrize(("first", "last"), PAIRS)
def test_of_two_saves_the_one_that_transformers_loads_is_read_and_the_other_named(
    tmp_path: Path, first: int, last: int
) -> None:
    saved_twice(tmp_path, first, last)
    assert first_number(tmp_path) == 1.0 + first
    checkpoint = open_checkpoint(tmp_path)
    beside = set(names(tmp_path.iterdir())) - {"config.json"} - set(names(checkpoint.files))
    followed = "model.safetensors.index.json" if first == 1 else "pytorch_model.bin.index.json"
    assert set(names(checkpoint.ignored)) == beside - ({followed} if first in (1, 3) else set())
    (note,) = checkpoint.notes
    assert "not read" in note


@pytest.mark.oracle
def test_transformers_loads_the_save_that_is_read(
    tmp_path: Path, ask_oracle: Callable[..., dict[str, Any]]
) -> None:
    for first, last in PAIRS:
        (tmp_path / f"{first}{last}").mkdir()
        saved_twice(tmp_path / f"{first}{last}", first, last)
    folders = [str(tmp_path / f"{first}{last}") for first, last in PAIRS]
    loaded = ask_oracle("oracle_files", folders)
    for folder in folders:
        assert loaded[folder]["embedding"] == first_number(tmp_path / folder)


def test_an_index_of_another_save_beside_the_one_file_is_not_compared(tmp_path: Path) -> None:
    """The single files differ; only the shards that nobody loads are equal."""
    for name, seed in (("a", 1), ("b", 2)):
        make_hf(tmp_path / name, seed=seed, single=True)
        make_hf(tmp_path / name, seed=3, shards=2)
    parts = names((tmp_path / "a").glob("model-*"))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.summary.verdict == "differ"
    for side in (found.a, found.b):
        said = [*parts, "model.safetensors.index.json"]
        assert side_document(side)["not_read"] == said
        assert listing_document(side, bool)["not_read"] == said


def test_an_index_can_be_opened_by_its_own_path(tmp_path: Path) -> None:
    make_hf(tmp_path, seed=1, single=True)
    weights = make_hf(tmp_path, seed=2, shards=2)
    checkpoint = open_checkpoint(tmp_path / "model.safetensors.index.json")
    assert set(checkpoint.shards[0].tensors) == set(weights)
    assert names(checkpoint.files) == names(tmp_path.glob("model-*"))
    assert names(checkpoint.ignored) == ["model.safetensors"]
    assert checkpoint.root == tmp_path


def test_the_file_that_the_config_names_comes_first(tmp_path: Path) -> None:
    make_hf(tmp_path, seed=1, single=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "chosen.safetensors")
    make_hf(tmp_path, seed=2, single=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["transformers_weights"] = "chosen.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert names(open_checkpoint(tmp_path).files) == ["chosen.safetensors"]


def resharded(folder: Path, of: int = 4, into: int = 2) -> dict[str, Tensor]:
    """Write a folder of `into` files with the index of a save of `of` files."""
    make_hf(folder / "before", shards=of, layers=4)
    weights = make_hf(folder, shards=into, layers=4)
    shutil.copy(folder / "before" / "model.safetensors.index.json", folder)
    shutil.rmtree(folder / "before")
    return weights


def test_an_index_of_a_longer_save_is_said_to_be_stale_and_the_numbered_files_are_read(
    tmp_path: Path,
) -> None:
    weights = make_hf(tmp_path / "right", shards=2, layers=4)
    resharded(tmp_path / "stale")
    checkpoint = open_checkpoint(tmp_path / "stale")
    assert set(checkpoint.shards[0].tensors) == set(weights)
    (note,) = checkpoint.notes
    assert "model.safetensors.index.json is stale: 5 files that it names are not here" in note
    assert "The 3 files here, numbered 1 to 3, hold every tensor that it names" in note
    summary = compare(tmp_path / "right", tmp_path / "stale").summary
    assert (summary.weights, summary.verdict) == ("same", "differ")  # a loader needs the index
    assert verdict_words(summary) == "differ (weights: same, a loader does not find B's files)"
    assert compare(tmp_path / "stale", tmp_path / "right").summary.verdict == "same"
    converted(tmp_path / "stale", tmp_path / "out", "hf")
    assert set(hf_tensors(tmp_path / "out")) == set(weights)


def test_numbered_files_that_lack_what_a_stale_index_names_are_refused(tmp_path: Path) -> None:
    resharded(tmp_path)
    make_hf(tmp_path / "fewer", shards=2, layers=3)
    for file in (tmp_path / "fewer").glob("*-of-*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(MissingShard, match=r"lack 9 of the tensors .*'model\.layers\.3\."):
        open_checkpoint(tmp_path)


def test_a_stale_index_beside_an_incomplete_set_names_the_files_that_are_missing(
    tmp_path: Path,
) -> None:
    resharded(tmp_path)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(MissingShard, match="5 of 5 files are missing: model-00001-of-00005"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_a_variant_beside_the_file_is_not_read(tmp_path: Path, stem: str) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / f"{stem}.safetensors")
    save_file({"w": torch.ones(2).half()}, tmp_path / f"{stem}.fp16.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.shards[0].tensors["w"].dtype == "F32"
    assert names(checkpoint.ignored) == [f"{stem}.fp16.safetensors"]


def test_a_variant_alone_is_read_and_said_to_need_its_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2).half()}, tmp_path / "model.fp16.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.shards[0].tensors["w"].dtype == "F16"
    assert any("variant='fp16'" in note for note in checkpoint.notes)


def test_files_of_several_models_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(MixedShards, match="give one of the files"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("single", [True, False])
def test_a_folder_of_links_to_a_store_elsewhere_is_read(tmp_path: Path, single: bool) -> None:
    weights = make_hf(tmp_path / "store", single=single)
    (tmp_path / "store" / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "store").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    checkpoint = open_checkpoint(tmp_path / "links")
    assert set(checkpoint.shards[0].tensors) == set(weights)
    assert checkpoint.config
    assert checkpoint.token_files == {"tokenizer_config.json": {"bos_token": "<s>"}}
    assert compare(tmp_path / "store", tmp_path / "links").summary.verdict == "same"


def test_a_snapshot_of_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    model = tmp_path / "models--a--b"
    make_hf(model / "blobs", single=True)
    snapshot = model / "snapshots" / "0af1"
    snapshot.mkdir(parents=True)
    (model / "blobs" / "1f").write_text('{"bos_token_id": 7}')
    (snapshot / "generation_config.json").symlink_to("../../blobs/1f")
    for file in (model / "blobs").glob("*.*"):
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.config
    assert checkpoint.token_files["generation_config.json"] == {"bos_token_id": 7}
    assert not leads_out(snapshot / "config.json")
    # A folder that is called so is not one of the cache.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "secret").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../../blobs/secret")
    assert leads_out(snapshot / "tokenizer.json")


def test_files_beside_the_weights_are_not_copied_through_links(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True)
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "hf" / "tokenizer.json").symlink_to(tmp_path / "secret")
    (tmp_path / "hf" / "vocab.json").write_text("{}")
    assert leads_out(tmp_path / "hf" / "tokenizer.json")
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", "hf")
    assert any("not copied" in note and "tokenizer.json" in note for note in plan.notes)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert (tmp_path / "out" / "vocab.json").exists()


def sharded_save(folder: Path, *, offsets: list[int], name: str) -> Path:
    """Write one file with the metadata of DCP's HuggingFaceStorageWriter."""
    folder.mkdir(exist_ok=True)
    info = {"w": {"saved_offsets": offsets}}
    save_file(
        {"w": torch.ones(2, 2)}, folder / name, metadata={"DCP_SHARDING_INFO": json.dumps(info)}
    )
    return folder / name


@pytest.mark.parametrize("rank", [1, 2])
def test_one_rank_s_part_is_never_opened_as_a_whole(tmp_path: Path, rank: int) -> None:
    file = sharded_save(
        tmp_path,
        offsets=[2 * rank - 2, 0],
        name=f"shard-0000{rank}-model-00001-of-00001.safetensors",
    )
    with pytest.raises(UnsupportedLayout, match=r"one rank's part of .*Give the folder"):
        open_checkpoint(file)


def test_a_file_of_whole_tensors_with_the_same_metadata_is_opened(tmp_path: Path) -> None:
    file = sharded_save(tmp_path, offsets=[0, 0], name="model.safetensors")
    assert set(open_checkpoint(file).shards[0].tensors) == {"w"}


@pytest.mark.parametrize("zeros", [8, 4096, None])
def test_a_file_that_begins_with_zeros_is_said_to_be_no_whole_copy(
    tmp_path: Path, zeros: int | None
) -> None:
    make_hf(tmp_path, single=True)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    count = len(content) if zeros is None else zeros
    file.write_bytes(bytes(count) + content[count:])
    said = "header" if zeros == 8 else "begins with zeros: it was not written or copied whole"
    with pytest.raises(CorruptFile, match=said):
        open_checkpoint(tmp_path)


def test_notes_of_the_files_are_on_the_side_of_a_comparison(tmp_path: Path) -> None:
    make_hf(tmp_path, single=True)
    save_file({"x": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    side = assemble(open_checkpoint(tmp_path))
    assert any("consolidated.safetensors" in note for note in side_document(side)["notes"])
