"""Distributed checkpoints: NVIDIA's, against their sources and twins; plain DCP folders; liars."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MissingShard,
    UnsupportedLayout,
)
from ckptdiff.formats import open_checkpoint, read_entries
from tests.arch.test_corpus import names_and_sizes
from tests.support.corpus import CORPUS, from_corpus
from tests.support.pairs import bits, compare, write_plain
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.mostly_slow(one_in=4)
# Every torch_dist case, and how many tensors its Hugging Face folder has.
CASES = {
    "deepseek-noqlora/megatron-tp1-pp1-torch_dist": 85,
    "deepseek-trained/megatron-tp1-pp1-ep2-dp2-trained2steps-distopt-torch_dist": 71,
    "deepseek-trained/megatron-tp1-pp1-torch_dist": 71,
    "deepseek-v3/megatron-tp1-pp1-r0.14-torch_dist": 171,
    "deepseek-v3/megatron-tp1-pp1-torch_dist": 171,
    "deepseek-v3/megatron-tp2-pp2-ep2-torch_dist": 171,
    "gpt2/megatron-tp1-pp1-te-torch_dist": 52,
    "gpt2/megatron-tp1-pp1-torch_dist": 52,
    "llama-5l/megatron-tp1-pp1-torch_dist": 48,
    "llama-5l/megatron-tp2-pp2-first2-torch_dist": 48,
    "llama-6l/megatron-tp1-pp1-torch_dist": 57,
    "llama2-8l/megatron-tp1-pp4-torch_dist": 75,
    "llama2/megatron-tp2-dp2-trained2steps-distopt-torch_dist": 39,
    "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch_dist": 39,
    "llama2/megatron-tp2-pp2-torch_dist": 39,
    "llama3/megatron-tp2-pp2-torch_dist-div1": 39,
    "mixtral-etp/megatron-tp1-pp1-etp2-torch_dist": 60,
    "mixtral-etp/megatron-tp1-pp1-torch_dist": 60,
    "mixtral-etp/megatron-tp2-pp1-ep2-etp1-torch_dist": 60,
    "mixtral/megatron-tp1-pp1-ep2-torch_dist": 79,
    "nemotron/megatron-tp1-pp1-torch_dist": 44,
    "nemotron/megatron-tp2-pp2-torch_dist": 44,
    "qwen2/megatron-tp2-pp1-torch_dist": 50,
    "qwen2/megatron-tp2-pp2-mcore0.16-singleton-torch_dist": 50,
    "qwen2/megatron-tp2-pp2-mcore0.16-torch_dist": 50,
    "qwen2moe/megatron-tp1-pp1-torch_dist": 117,
    "qwen3/megatron-tp1-pp1-torch_dist": 46,
    "qwen3moe/megatron-tp2-pp1-ep2-etp1-torch_dist": 135,
}
# Trained for two steps: how many tensors that left as they were.
TRAINED = {
    "deepseek-trained/megatron-tp1-pp1-ep2-dp2-trained2steps-distopt-torch_dist": 11,
    "llama2/megatron-tp2-dp2-trained2steps-distopt-torch_dist": 6,
}
ON_DISK = sorted(
    f"{file.parents[2].name}/{file.parents[1].name}" for file in CORPUS.glob("*/*/*/.metadata")
)


def test_all_cases_that_are_known_are_on_disk(corpus: Path) -> None:
    assert sorted(CASES) == ON_DISK


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("case", from_corpus(case for case in ON_DISK if case not in TRAINED))
def test_what_nvidia_wrote_equals_its_source(corpus: Path, case: str) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    comparison = compare(source, corpus / case)
    assert comparison.b.checkpoint.format == "torch_dist"
    assert comparison.statuses == {}
    # Copies of one tensor under several names (GPT-2's tied head) are compared as copies.
    assert comparison.results.keys() <= names_and_sizes(source).keys()
    assert len(comparison.results) == CASES[case]
    assert comparison.summary.weights == "same"
    assert not comparison.b.unmapped
    assert not comparison.b.errors
    numel = sum(comparison.numbers(name).numel for name in comparison.results)
    assert numel == sum(names_and_sizes(source)[name] for name in comparison.results)


@pytest.mark.parametrize("case", from_corpus(case for case in ON_DISK if case in TRAINED))
def test_training_changed_what_it_should(corpus: Path, case: str) -> None:
    comparison = compare(corpus / case.partition("/")[0] / "hf", corpus / case)
    assert comparison.summary.counts["same"] == TRAINED[case]
    assert comparison.summary.counts["differ"] == CASES[case] - TRAINED[case]
    for name in comparison.statuses:
        assert 0 < comparison.numbers(name).max_abs < 0.01


@pytest.mark.mostly_slow(one_in=14)
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(
    ("case", "twin"),
    [
        *((case, case.removesuffix("_dist")) for case in ON_DISK if case in TRAINED),
        (
            "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch_dist",
            "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch",
        ),
        ("llama2/megatron-tp2-pp2-torch_dist", "llama2/megatron-tp8-pp1-core-local"),
        (
            "llama-5l/megatron-tp2-pp2-first2-torch_dist",
            "llama-5l/megatron-tp1-pp2-vpp3-layout-r0.14-torch",
        ),
        (
            "qwen2/megatron-tp2-pp2-mcore0.16-singleton-torch_dist",
            "qwen2/megatron-tp2-pp2-mcore0.16-torch_dist",
        ),
        (
            "mixtral/megatron-tp1-pp1-ep2-torch_dist",
            "mixtral/megatron-tp2-pp1-ep2-groupedmlp-torch",
        ),
    ],
)
def test_twins_are_equal_in_every_tensor(
    corpus: Path, case: str, twin: str, exchanged: bool
) -> None:
    if not (corpus / case).exists():
        pytest.skip(f"{case} is not there")
    pair = (corpus / case, corpus / twin)
    comparison = compare(*(reversed(pair) if exchanged else pair))
    assert comparison.statuses == {}
    assert comparison.summary.weights == "same"
    assert comparison.results
    for side in (comparison.a, comparison.b):
        assert not side.unmapped
        assert not side.errors


def test_every_way_to_one_iteration_opens_the_same(corpus: Path) -> None:
    folder = corpus / "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch_dist"
    above, itself = open_checkpoint(folder), open_checkpoint(folder / "iter_0000003")
    assert above == itself
    assert above.iteration == 3
    assert above.parallelism.tp == 2
    by_file = open_checkpoint(folder / "iter_0000003" / ".metadata")
    assert by_file.shards == itself.shards


def test_the_listing_says_which_file_holds_which_box(corpus: Path) -> None:
    folder = corpus / "llama2/megatron-tp2-pp2-torch_dist"
    done = ckptdiff("ls", folder, "--json")
    assert done.returncode == 0
    found = document(done)
    assert found["format"] == "torch_dist"
    assert found["family"] == "llama"
    for tensor in found["tensors"]:
        assert tensor["pieces"], tensor["name"]
        numel = 0
        for piece in tensor["pieces"]:
            assert piece["file"].endswith(".distcp")
            sizes = [stop - start for start, stop in piece["box"]]
            assert sizes == [stop - start for start, stop in piece["of"]]
            volume = 1
            for size in sizes:
                volume *= size
            numel += volume
        size = 1
        for n in tensor["shape"]:
            size *= n
        assert numel == size
    # TP 2: both halves of a row-parallel weight, in the files of two processes.
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    down = by_name["model.layers.0.mlp.down_proj.weight"]
    assert [p["box"][1] for p in down["pieces"]] == [[0, 88], [88, 176]]
    assert len({piece["file"] for piece in down["pieces"]}) == 2


def test_optimizer_and_states_are_browsable_and_not_weights(corpus: Path) -> None:
    folder = corpus / "llama2/megatron-tp2-dp2-trained2steps-distopt-torch_dist"
    entries = {entry.name: entry for entry in read_entries(open_checkpoint(folder))}
    name = "optimizer.state.exp_avg.decoder.layers.self_attention.linear_qkv.weight"
    assert (entries[name].kind, entries[name].text) == ("tensor", "F32 4x2x1x6144")
    assert entries["args.num_layers"].text == "4"
    assert any(entry.kind == "opaque" for entry in entries.values())


def test_reading_a_torch_dist_folder_brings_all_its_refs_names(corpus: Path) -> None:
    checkpoint = open_checkpoint(corpus / "llama2/megatron-tp2-pp2-torch_dist")
    assert checkpoint.chunks is not None
    names = {chunk.ref.name for chunks in checkpoint.chunks.values() for chunk in chunks}
    assert "decoder.layers.self_attention.linear_qkv.weight" in names


# ── plain PyTorch folders ────────────────────────────────────────────────────────────────────────

TENSORS = {
    "model.embed.weight": torch.arange(24, dtype=torch.float32).reshape(6, 4),
    "model.layers.norm.weight": torch.arange(8, dtype=torch.bfloat16).reshape(2, 4),
    "model.layers.0.a.weight": torch.arange(12, dtype=torch.float16).reshape(3, 4),
    "step": torch.tensor(7),
    "nothing": torch.empty(0, 4),
}


def write_dcp(folder: Path, tensors: dict[str, Any]) -> Path:
    """Have torch write its own distributed format, with one process and no process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.state_dict_saver.save(tensors, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_dcp(tmp_path / "dcp", dict(TENSORS))


def test_a_plain_dcp_folder_opens_under_its_own_names(plain: Path) -> None:
    side = assemble(open_checkpoint(plain))
    assert (side.checkpoint.format, side.checkpoint.convention) == ("dcp", "hf")
    assert side.architecture is None
    assert not side.unmapped
    assert {name: t.shape for name, t in side.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in TENSORS.items()
    }


def test_a_plain_dcp_folder_is_listed_by_the_program(plain: Path) -> None:
    done = ckptdiff("ls", plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model.layers.norm.weight" in done.stdout
    assert "no rule of" not in done.stdout


def test_a_plain_dcp_folder_equals_the_same_tensors_in_safetensors(
    plain: Path, tmp_path: Path
) -> None:
    comparison = compare(write_plain(tmp_path / "hf", TENSORS), plain)
    assert comparison.statuses == {}
    assert comparison.results.keys() == TENSORS.keys()


def test_huggingface_names_in_dcp_compare_with_their_folder(
    tiny_hf: Callable[..., Path], tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    folder = write_dcp(tmp_path / "dcp", tiny_weights())
    for pair in ((tiny_hf(), folder), (folder, tiny_hf())):
        comparison = compare(*pair)
        assert comparison.statuses == {}
        assert comparison.summary.weights == "same"
        assert len(comparison.results) == len(tiny_weights())


def test_a_changed_bit_in_dcp_is_found(plain: Path, tmp_path: Path) -> None:
    changed = {name: tensor.clone() for name, tensor in TENSORS.items()}
    bits(changed["model.embed.weight"])[5, 3] ^= 1
    comparison = compare(write_plain(tmp_path / "hf", changed), plain)
    assert comparison.statuses == {"model.embed.weight": "differ"}
    assert comparison.numbers("model.embed.weight").max_at == (5, 3)


# ── liars ────────────────────────────────────────────────────────────────────────────────────────


def refused(path: Path, kind: type[CkptDiffError], *words: str) -> None:
    """Opening, or assembling what was opened, says what is wrong and in which file."""
    try:
        side = assemble(open_checkpoint(path))
    except CkptDiffError as error:
        found, said = type(error), str(error)
    else:
        assert side.errors, "nothing was wrong"
        found, said = CkptDiffError, "; ".join(error.text for error in side.errors.values())
    assert found is kind, said
    for word in words:
        assert word in said


def rewrite(folder: Path, change: Callable[[Any], None]) -> None:
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def test_a_missing_file_is_named(plain: Path) -> None:
    (file,) = plain.glob("*.distcp")
    file.unlink()
    refused(plain, MissingShard, str(plain), file.name)


def test_chunks_that_an_extension_packed_are_refused(plain: Path) -> None:
    def change(metadata: Any) -> None:
        for index, info in metadata.storage_data.items():
            metadata.storage_data[index] = replace(info, transform_descriptors=("stream.zstd",))

    rewrite(plain, change)
    refused(plain, UnsupportedLayout, str(plain / ".metadata"), "stream.zstd", "save it without")


@pytest.mark.parametrize("kept", [0, 10, 1500, -1])
def test_a_file_that_was_cut_off_is_named(plain: Path, kept: int) -> None:
    (file,) = plain.glob("*.distcp")
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    refused(plain, CorruptFile, str(file))


@pytest.mark.parametrize("name", ["../x.distcp", "/etc/passwd", "..", "", "a/b.distcp"])
def test_a_path_out_of_the_folder_is_refused(plain: Path, name: str) -> None:
    def change(metadata: Any) -> None:
        for index, info in metadata.storage_data.items():
            metadata.storage_data[index] = replace(info, relative_path=name)

    rewrite(plain, change)
    (plain.parent / "x.distcp").write_bytes(b"")
    refused(plain, CorruptFile, str(plain / ".metadata"), "names")


def test_weights_that_are_links_to_a_store_elsewhere_are_read(plain: Path, tmp_path: Path) -> None:
    before = {t.name: t.shape for t in assemble(open_checkpoint(plain)).tensors.values()}
    (file,) = plain.glob("*.distcp")
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    side = assemble(open_checkpoint(plain))
    assert {t.name: t.shape for t in side.tensors.values()} == before
    assert not side.errors


class Weapon:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_would_run_something_runs_nothing(plain: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (plain / ".metadata").write_bytes(pickle.dumps(Weapon(marker)))
    refused(plain, CorruptFile, str(plain / ".metadata"))
    assert not marker.exists()


def test_a_weapon_beside_good_metadata_runs_nothing(plain: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    rewrite(plain, lambda metadata: setattr(metadata, "planner_data", Weapon(marker)))
    assert len(assemble(open_checkpoint(plain)).tensors) == len(TENSORS)
    assert not marker.exists()


def test_a_weapon_instead_of_a_chunk_runs_nothing(plain: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    blob = io.BytesIO()
    torch.save(Weapon(marker), blob)
    put(plain, "model.embed.weight", blob.getvalue())
    refused(plain, CorruptFile, ".distcp", "model.embed.weight")
    assert not marker.exists()


def put(folder: Path, name: str, blob: bytes) -> None:
    """Have a tensor's chunk be this blob, appended to the file."""
    (file,) = folder.glob("*.distcp")
    start = file.stat().st_size
    with file.open("ab") as opened:
        opened.write(blob)

    def change(metadata: Any) -> None:
        for index, info in metadata.storage_data.items():
            if index.fqn == name:
                metadata.storage_data[index] = replace(info, offset=start, length=len(blob))

    rewrite(folder, change)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(6, 4, dtype=torch.float16), torch.zeros(4, 6), torch.zeros(24), torch.zeros(6, 5)],
)
def test_a_chunk_that_is_not_what_the_metadata_says_is_refused(plain: Path, tensor: Tensor) -> None:
    blob = io.BytesIO()
    torch.save(tensor, blob)
    put(plain, "model.embed.weight", blob.getvalue())
    refused(plain, CorruptFile, ".distcp", "model.embed.weight", "[6, 4]")


def cut_in_two(folder: Path, *, first: int, second: int) -> None:
    """Describe the embedding as two chunks of rows, `0:first` and `second:6`."""
    (file,) = folder.glob("*.distcp")
    start = file.stat().st_size
    whole = TENSORS["model.embed.weight"]
    parts = [(0, whole[:first]), (second, whole[second:])]
    blobs = []
    for _, part in parts:
        blob = io.BytesIO()
        torch.save(part.clone(), blob)
        blobs.append(blob.getvalue())
    with file.open("ab") as opened:
        opened.write(b"".join(blobs))

    def change(metadata: Any) -> None:
        entry = metadata.state_dict_metadata["model.embed.weight"]
        (chunk,) = entry.chunks
        entry.chunks = [
            replace(chunk, offsets=torch.Size([row, 0]), sizes=part.shape) for row, part in parts
        ]
        (index,) = [i for i in metadata.storage_data if i.fqn == "model.embed.weight"]
        info = metadata.storage_data.pop(index)
        at = start
        for (row, _), blob in zip(parts, blobs, strict=True):
            where = replace(index, offset=torch.Size([row, 0]), index=None)
            metadata.storage_data[where] = replace(info, offset=at, length=len(blob))
            at += len(blob)

    rewrite(folder, change)


def test_chunks_of_rows_are_put_together(plain: Path, tmp_path: Path) -> None:
    cut_in_two(plain, first=2, second=2)
    comparison = compare(write_plain(tmp_path / "hf", TENSORS), plain)
    assert comparison.statuses == {}
    assert len(comparison.b.tensors["model.embed.weight"].pieces) == 2


def test_a_raw_listing_says_where_each_chunk_lies(plain: Path) -> None:
    """The bytes at the offsets are those of the rows that the boxes speak of."""
    cut_in_two(plain, first=2, second=2)
    whole = TENSORS["model.embed.weight"]
    (file,) = document(ckptdiff("ls", plain, "--raw", "--json"))["files"]
    parts = [part for part in file["tensors"] if part["name"] == "model.embed.weight"]
    assert [part["box"][0] for part in parts] == [[0, 2], [2, 6]]
    content = (plain / file["file"]).read_bytes()
    for part in parts:
        rows = whole[slice(*part["box"][0])].contiguous()
        held = content[part["offset"] : part["offset"] + part["bytes"]]
        assert torch.equal(torch.frombuffer(bytearray(held), dtype=whole.dtype), rows.flatten())
    lines = ckptdiff("ls", plain, "--raw").stdout.splitlines()
    assert any(line.startswith("  model.embed.weight [2:6, 0:") for line in lines)


def test_a_gap_between_chunks_is_an_error_of_that_tensor_alone(plain: Path) -> None:
    cut_in_two(plain, first=2, second=3)
    refused(plain, CkptDiffError, str(plain / ".metadata"), "model.embed.weight")
    comparison = compare(plain, plain)
    assert comparison.statuses == {"model.embed.weight": "error"}


def test_chunks_that_overlap_are_refused(plain: Path) -> None:
    cut_in_two(plain, first=3, second=2)
    refused(plain, CorruptFile, str(plain / ".metadata"), "model.embed.weight", "overlap")


def test_an_overlap_that_makes_up_for_a_gap_is_refused(plain: Path) -> None:
    """Rows 0:3 and 2:5 of 6 have as many elements as the whole."""
    cut_in_two(plain, first=3, second=3)

    def change(metadata: Any) -> None:
        entry = metadata.state_dict_metadata["model.embed.weight"]
        entry.chunks[1] = replace(entry.chunks[1], offsets=torch.Size([2, 0]))
        for index in list(metadata.storage_data):
            if index.fqn == "model.embed.weight" and index.offset == torch.Size([3, 0]):
                info = metadata.storage_data.pop(index)
                metadata.storage_data[replace(index, offset=torch.Size([2, 0]))] = info

    rewrite(plain, change)
    refused(plain, CorruptFile, "model.embed.weight", "overlap")


def test_a_chunk_beyond_its_tensor_is_refused(plain: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata["model.embed.weight"].size = torch.Size([4, 4])

    rewrite(plain, change)
    refused(plain, CorruptFile, str(plain), "model.embed.weight")


@pytest.mark.parametrize(
    "size", [torch.Size([6]), torch.Size([6, 4, 1]), torch.Size([-6, 4]), "6x4", None]
)
def test_a_shape_that_does_not_fit_is_refused(plain: Path, size: Any) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata["model.embed.weight"].size = size

    rewrite(plain, change)
    refused(plain, CorruptFile, str(plain))


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (1 << 60, 10), (0, 1 << 60), (0, -5)])
def test_places_outside_the_file_are_refused(plain: Path, offset: int, length: int) -> None:
    def change(metadata: Any) -> None:
        for index, info in metadata.storage_data.items():
            metadata.storage_data[index] = replace(info, offset=offset, length=length)

    rewrite(plain, change)
    refused(plain, CorruptFile, str(plain))


def test_a_chunk_that_lies_in_no_file_is_refused(plain: Path) -> None:
    def change(metadata: Any) -> None:
        (index,) = [i for i in metadata.storage_data if i.fqn == "model.embed.weight"]
        del metadata.storage_data[index]

    rewrite(plain, change)
    refused(plain, CorruptFile, str(plain / ".metadata"), "model.embed.weight")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"not a pickle", b"\x80\x02}.", b"\x80\x02N."]
)
def test_metadata_that_is_none_is_refused(plain: Path, content: bytes) -> None:
    (plain / ".metadata").write_bytes(content)
    refused(plain, CorruptFile, str(plain / ".metadata"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps({"sharded_backend": "zarr", "sharded_backend_version": 1}), UnsupportedLayout),
        (json.dumps({"sharded_backend": "zarr"}), UnsupportedLayout),
        ("{", CorruptFile),
        ("[]", CorruptFile),
    ],
)
def test_another_backend_is_named(plain: Path, content: str, kind: type[CkptDiffError]) -> None:
    (plain / "metadata.json").write_text(content)
    refused(plain, kind, str(plain / "metadata.json"))


def test_the_backend_zarr_is_named_where_there_is_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "iter_0000001").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1")
    (tmp_path / "iter_0000001" / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    refused(tmp_path, UnsupportedLayout, "zarr", "metadata.json")
