"""Hugging Face folders: which files are read, what their headers say, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.checkpoint import Parallelism, Rank
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile, MissingShard, MixedShards, NotACheckpoint
from ckptdiff.formats import open_checkpoint
from tests.support.oracle_hf import make_hf
from tests.support.pairs import write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.checkpoint import Checkpoint, TensorRef

    Make = Callable[..., Path]

NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0", torch.complex64: "C64",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}  # fmt: skip


def tensors(checkpoint: Checkpoint) -> dict[str, TensorRef]:
    (shard,) = checkpoint.shards
    assert (shard.rank, shard.chunk) == (Rank(), 0)
    return dict(shard.tensors)


def content(ref: TensorRef) -> bytes:
    with ref.file.open("rb") as file:
        file.seek(ref.offset)
        return file.read(ref.nbytes)


def raw(tensor: Tensor) -> bytes:
    whole = tensor.clone(memory_format=torch.contiguous_format)
    return bytes(whole.flatten().view(torch.uint8).numpy())


def assert_holds(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> None:
    found = tensors(checkpoint)
    assert set(found) == set(weights)
    for name, weight in weights.items():
        ref = found[name]
        assert (ref.name, ref.shape, ref.dtype) == (name, tuple(weight.shape), NAMES[weight.dtype])
        assert ref.nbytes == weight.nbytes
        assert content(ref) == raw(weight), name


@pytest.mark.parametrize("transformers", [4, 5])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_tensor_lies_where_the_header_says(
    tmp_path: Path, kind: Any, single: bool, transformers: Any
) -> None:
    weights = make_hf(tmp_path, kind=kind, single=single, shards=3, transformers=transformers)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, weights)
    assert checkpoint.format == "hf"
    assert checkpoint.root == tmp_path
    assert checkpoint.parallelism == Parallelism()
    assert checkpoint.config == json.loads((tmp_path / "config.json").read_text())
    assert checkpoint.files == tuple(sorted(tmp_path.glob(f"*.{kind}")))
    assert checkpoint.iteration is None
    assert checkpoint.notes == ()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 3, 4), (3, 0, 2)])
def test_every_dtype_is_read_as_the_safetensors_library_wrote_it(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    numbers = np.arange(1, 25, dtype=np.float32)[: int(np.prod(shape))].reshape(shape)
    weights = {word: torch.tensor(numbers).to(dtype) for dtype, word in NAMES.items()}
    save_file(weights, tmp_path / "model.safetensors")
    assert_holds(open_checkpoint(tmp_path), weights)
    assert {ref.dtype for ref in tensors(open_checkpoint(tmp_path)).values()} == set(ITEMSIZE)


def test_tensors_of_a_bin_file_may_be_views(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    torch.save({"t": base.t(), "part": base[1:3, 2:4]}, tmp_path / "pytorch_model.bin")
    found = tensors(open_checkpoint(tmp_path))
    assert (found["t"].shape, found["t"].stride) == ((8, 6), (1, 8))
    assert found["part"].offset - found["t"].offset == (8 + 2) * 4


def test_a_state_dict_inside_a_bin_file_is_found(tmp_path: Path) -> None:
    weights = {"w": torch.ones(2, 2)}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "pytorch_model.bin")
    assert_holds(open_checkpoint(tmp_path), weights)


def test_one_file_of_many_can_be_opened_alone(tmp_path: Path) -> None:
    weights = make_hf(tmp_path, shards=3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    file = sorted(tmp_path.glob("*.safetensors"))[1]
    checkpoint = open_checkpoint(file)
    assert_holds(checkpoint, {n: w for n, w in weights.items() if index[n] == file.name})
    assert checkpoint.root == file
    assert checkpoint.config is not None


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_plain(tmp_path, {"w": torch.ones(1)}))
    assert checkpoint.config is None
    assert checkpoint.notes == ("no config.json beside the weights",)


def test_safetensors_come_before_bin_files(tmp_path: Path) -> None:
    weights = make_hf(tmp_path, seed=1)
    make_hf(tmp_path, seed=2, kind="bin")
    assert_holds(open_checkpoint(tmp_path), weights)


def test_files_that_the_index_does_not_name_are_ignored_and_noted(tmp_path: Path) -> None:
    weights = make_hf(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, weights)
    (note,) = checkpoint.notes
    assert "consolidated.safetensors" in note


@pytest.mark.parametrize("other", ["consolidated.safetensors", "model.fp16.safetensors"])
def test_without_an_index_the_one_file_that_transformers_loads_is_read(
    tmp_path: Path, other: str
) -> None:
    weights = make_hf(tmp_path, single=True)
    save_file({"lm_head.weight": torch.zeros(61, 32)}, tmp_path / other)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, weights)
    (note,) = checkpoint.notes
    assert other in note


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.bin", "scheduler.pt"])
def test_what_a_trainer_leaves_beside_the_weights_is_not_read(tmp_path: Path, name: str) -> None:
    weights = make_hf(tmp_path, kind="bin", single=True)
    torch.save({"lr": 0.1}, tmp_path / name)
    assert_holds(open_checkpoint(tmp_path), weights)


def test_numbered_files_need_no_index(tmp_path: Path) -> None:
    weights = make_hf(tmp_path, shards=3)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_holds(open_checkpoint(tmp_path), weights)


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, kind: Any, index: bool, lost: int) -> None:
    make_hf(tmp_path, shards=3, kind=kind)
    (gone,) = tmp_path.glob(f"*-0000{lost}-of-*.{kind}")
    total = len(list(tmp_path.glob(f"*.{kind}")))
    gone.unlink()
    if not index:
        next(tmp_path.glob("*.index.json")).unlink()
    with pytest.raises(MissingShard) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert (gone.name if index else f"numbers {lost}") in str(caught.value)
    assert f"of {total} files" in str(caught.value)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    weights = make_hf(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").unlink()
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    shutil.copy(first, second)
    with pytest.raises(MixedShards, match="is in both") as caught:
        open_checkpoint(tmp_path)
    assert any(name in str(caught.value) for name in weights)
    assert first.name in str(caught.value)
    assert second.name in str(caught.value)


def test_an_index_that_puts_a_tensor_elsewhere_is_refused(tmp_path: Path) -> None:
    make_hf(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    first, second, *_ = sorted(set(document["weight_map"].values()))
    document["weight_map"]["model.embed_tokens.weight"] = second
    index.write_text(json.dumps(document))
    with pytest.raises(CorruptFile, match=rf"embed_tokens.* is in {first}"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_only_the_index_knows_is_refused(tmp_path: Path) -> None:
    make_hf(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["ghost"] = next(iter(document["weight_map"].values()))
    index.write_text(json.dumps(document))
    with pytest.raises(CorruptFile, match=r"'ghost'.* is in no file"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_the_index_does_not_know_is_read(tmp_path: Path) -> None:
    """An index names files; what is in them counts, lest a tensor is lost without a word."""
    weights = make_hf(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    del document["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(document))
    assert_holds(open_checkpoint(tmp_path), weights)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"a"', b'{"hidden_size": 1, "hidden_size": 2}', b"\xff"]
)
def test_a_config_that_is_no_object_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    make_hf(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("tree", [[torch.ones(1)], {}, 3])
def test_a_bin_file_without_a_dictionary_is_no_checkpoint(tmp_path: Path, tree: Any) -> None:
    torch.save(tree, tmp_path / "pytorch_model.bin")
    with pytest.raises(NotACheckpoint, match=r"pytorch_model\.bin"):
        open_checkpoint(tmp_path)


def test_a_path_that_is_not_there_is_said_to_be_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["README.md", "config.json", "weights.npz"])
def test_what_holds_no_weights_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(NotACheckpoint) as caught:
            open_checkpoint(path)
        assert str(path) in str(caught.value)


def test_progress_counts_every_file_once(tmp_path: Path) -> None:
    make_hf(tmp_path, shards=4)
    total = len(list(tmp_path.glob("*.safetensors")))
    calls: list[tuple[int, int]] = []
    open_checkpoint(tmp_path, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(n, total) for n in range(1, total + 1)]


def test_a_folder_that_is_a_link_is_opened_as_it_is_called(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    checkpoint = open_checkpoint(tmp_path / "link")
    assert checkpoint.root == tmp_path / "link"
    assert_holds(checkpoint, weights)


def test_a_folder_of_checkpoints_names_those_below_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_plain(tmp_path / name, {"w": torch.ones(2)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotACheckpoint, match=r"holds some: one, two\. Give one of them"):
        open_checkpoint(tmp_path)
