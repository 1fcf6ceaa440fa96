"""Files that torch.save wrote before torch 1.6, by torch itself, which still writes them."""

from __future__ import annotations

import pickle
import pickletools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.errors import CkptDiffError, CorruptFile
from ckptdiff.formats import open_checkpoint, read_entries
from tests.support.oracle_hf import make_hf
from tests.support.pairs import bits, compare

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BASE = torch.arange(24.0).reshape(4, 6)
WEIGHTS = {
    "whole": BASE,
    "rows": BASE[1:3],
    "columns": BASE[:, 2:4],
    "turned": BASE.T,
    "bf16": torch.linspace(-1, 1, 7).bfloat16(),
    "half": torch.linspace(-1, 1, 5).half(),
    "number": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def save(tree: Any, file: Path) -> Path:
    torch.save(tree, file, _use_new_zipfile_serialization=False)
    return file


def held(file: Path) -> dict[str, Tensor]:
    """Return the tensors that are found, read at their offsets and strides."""
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
             "I64": torch.int64, "BOOL": torch.bool}  # fmt: skip
    found = {}
    for name, ref in open_checkpoint(file).shards[0].tensors.items():
        raw = bytearray(ref.file.read_bytes()[ref.offset :]) + bytes(8)
        dtype = names[ref.dtype]
        values = torch.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype=dtype)
        found[name] = values.as_strided(ref.shape, ref.stride)
    return found


def test_tensors_are_those_that_torch_saved(tmp_path: Path) -> None:
    file = save(WEIGHTS, tmp_path / "x.pt")
    found, loaded = held(file), torch.load(file, weights_only=True)
    assert found.keys() == loaded.keys()
    for name, value in loaded.items():
        assert found[name].shape == value.shape
        assert torch.equal(bits(found[name].contiguous()), bits(value.contiguous())), name


def test_a_model_is_the_same_as_its_source(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    (tmp_path / "old").mkdir()
    save({"model": weights, "epoch": 3}, tmp_path / "old" / "pytorch_model.bin")
    config = (tmp_path / "hf" / "config.json").read_text()
    (tmp_path / "old" / "config.json").write_text(config)
    found = compare(tmp_path / "hf", tmp_path / "old")
    assert found.summary.verdict == "same"
    assert [entry.name for entry in read_entries(found.b.checkpoint)] == ["epoch"]


def test_a_large_pickle_is_read_to_its_end(tmp_path: Path) -> None:
    tree = {"w": torch.ones(3), "log": [f"step {n}" * 20 for n in range(12_000)]}
    assert torch.equal(held(save(tree, tmp_path / "x.pt"))["w"], torch.ones(3))


def test_a_file_that_is_cut_off_says_so_wherever(tmp_path: Path) -> None:
    content = save({"w": torch.ones(3), "v": torch.ones(2)}, tmp_path / "x.pt").read_bytes()
    for length in (*range(16, len(content), 7), len(content) - 1):
        (tmp_path / "x.pt").write_bytes(content[:length])
        with pytest.raises(CorruptFile, match=r"x\.pt: .*cut off"):
            open_checkpoint(tmp_path / "x.pt")


def parts(folder: Path) -> list[bytes]:
    """Return the pickles of a good file, and what follows them."""
    rest = save({"w": torch.ones(3)}, folder / "good.pt").read_bytes()
    found = []
    for _ in range(5):
        *_, (_, _, stop) = pickletools.genops(rest)
        assert stop is not None
        found.append(rest[: stop + 1])
        rest = rest[stop + 1 :]
    return [*found, rest]


@pytest.mark.parametrize(
    ("number", "other", "words"),
    [
        (1, pickle.dumps(1000, 2), "version 1000"),
        (2, pickle.dumps({"little_endian": False}, 2), "little-endian"),
        (4, pickle.dumps([], 2), "not those that the pickle names"),
        (4, pickle.dumps(["a", "b"], 2), "not those that the pickle names"),
        (4, pickle.dumps({"a": 1}, 2), "in the place of the keys"),
        (5, b"\x02" + bytes(19), "is not there"),
        (5, b"\xff" * 20, "is not there"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, number: int, other: bytes, words: str
) -> None:
    found = parts(tmp_path)
    found[number] = other
    (tmp_path / "x.pt").write_bytes(b"".join(found))
    with pytest.raises(CkptDiffError, match=words):
        open_checkpoint(tmp_path / "x.pt")
