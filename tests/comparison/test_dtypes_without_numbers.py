"""Dtypes whose numbers are not computed: listed, compared and copied byte by byte."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.comparison.inspect import python_source
from ckptdiff.diagnosis.run import diagnosed
from ckptdiff.dtypes import AS_BITS, BELOW_A_BYTE
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.diff import diff_document, diff_lines
from ckptdiff.report.ls import listing_document, listing_lines
from tests.support.conversions import converted
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare, write_plain

if TYPE_CHECKING:
    from pathlib import Path

BITS = {**BELOW_A_BYTE, "C64": 64, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
FUTURE = "F5_E2M2"  # of no library, with 5 bits
GATE = "model.layers.0.mlp.gate_proj.weight"


def write(folder: Path, dtype: str, content: bytes, shape: tuple[int, ...] = (4, 8)) -> Path:
    """Write a file with one tensor `w` of any dtype, and one of float32."""
    header = {
        "w": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]},
        "x": {"dtype": "F32", "shape": [1], "data_offsets": [len(content), len(content) + 4]},
    }
    text = json.dumps(header).encode()
    folder.mkdir()
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + content + bytes(4))
    return folder


def size(dtype: str) -> int:
    return 4 * 8 * BITS.get(dtype, 5) // 8


def test_what_has_no_numbers_is_what_the_tables_say() -> None:
    assert set(AS_BITS) | set(BELOW_A_BYTE) == set(BITS)


@pytest.mark.parametrize("dtype", [*BITS, FUTURE])
def test_it_is_listed_with_its_dtype_shape_and_bytes(tmp_path: Path, dtype: str) -> None:
    side = assemble(open_checkpoint(write(tmp_path / "a", dtype, bytes(size(dtype)))))
    row, _ = listing_document(side, bool)["tensors"]
    assert (row["dtype"], row["shape"], row["bytes"]) == (dtype, (4, 8), size(dtype))
    assert any(dtype in line and "4x8" in line for line in listing_lines(side, bool))
    compile(python_source(side.tensors["w"]), "source", "exec")


@pytest.mark.parametrize("dtype", BITS)
def test_it_is_read_where_the_safetensors_library_reads_it(tmp_path: Path, dtype: str) -> None:
    content = bytes(range(1, size(dtype) + 1)) if size(dtype) < 256 else bytes(size(dtype))
    folder = write(tmp_path / "a", dtype, content)
    with safe_open(folder / "model.safetensors", "numpy") as opened:
        assert opened.get_slice("w").get_dtype() == dtype
    ref = open_checkpoint(folder).shards[0].tensors["w"]
    raw = ref.file.read_bytes()[ref.offset : ref.offset + ref.nbytes]
    assert raw == content


@pytest.mark.parametrize("dtype", [*BITS, FUTURE])
def test_equal_bytes_are_the_same_and_others_differ_without_numbers(
    tmp_path: Path, dtype: str
) -> None:
    content = bytearray(size(dtype))
    a, b = (write(tmp_path / name, dtype, bytes(content)) for name in ("a", "b"))
    content[3] ^= 1
    content[-1] ^= 0x80
    other = write(tmp_path / "c", dtype, bytes(content))
    assert compare(a, b).summary.verdict == "same"
    found = compare(a, other)
    assert (found["w"].status, found["w"].numbers) == ("differ", None)
    unit, count = ("elements", 32) if dtype in AS_BITS else ("bytes", size(dtype))
    assert f"2 of {count} {unit} differ" in (found["w"].note or "")
    assert found["x"].status == "same"
    document = diff_document(found.a, found.b, found.results.values(), found.summary)
    assert document["verdict"] == "differ"
    json.dumps(document)
    _, trouble = diagnosed(found.a, found.b, list(found.results.values()), (), InlineExecutor())
    assert trouble is None


@pytest.mark.parametrize("dtype", [*BITS, FUTURE])
def test_it_cannot_be_compared_with_another_dtype(tmp_path: Path, dtype: str) -> None:
    packed = write(tmp_path / "a", dtype, bytes(size(dtype)))
    plain = write_plain(tmp_path / "b", {"w": torch.zeros(4, 8), "x": torch.zeros(1)})
    for pair in ((packed, plain), (plain, packed)):
        found = compare(*pair)
        assert found["w"].status == "packed"
        assert found.summary.verdict == "packed"
        dtypes = ["F32", "F32"]
        dtypes[pair.index(packed)] = dtype
        said = (
            f"{dtypes[0]} in A and {dtypes[1]} in B: bytes of different dtypes without numbers are "
            "not compared"
        )
        assert found["w"].note == said
        lines = list(diff_lines(found.a, found.b, list(found.results.values()), found.summary))
        assert lines[-3] == f"%  1 tensor is {said}"
        assert lines[-1].endswith("; not compared: 1 tensor of different dtypes without numbers")


@pytest.mark.parametrize("dtype", BELOW_A_BYTE)
def test_a_range_that_does_not_fit_the_bits_is_damage(tmp_path: Path, dtype: str) -> None:
    folder = write(tmp_path / "a", dtype, bytes(size(dtype) + 1))
    with pytest.raises(CorruptFile, match=rf"dtype {dtype} needs {8 * size(dtype)} bits"):
        open_checkpoint(folder)


@pytest.mark.parametrize("dtype", BITS)
def test_a_conversion_to_hugging_face_copies_its_bytes(tmp_path: Path, dtype: str) -> None:
    content = bytes(i % 251 for i in range(size(dtype)))
    converted(write(tmp_path / "a", dtype, content), tmp_path / "out", "hf")
    file = tmp_path / "out" / "model.safetensors"
    with safe_open(file, "numpy") as opened:
        found = opened.get_slice("w")
        assert (found.get_dtype(), found.get_shape()) == (dtype, [4, 8])
    assert content in file.read_bytes()


def test_a_dtype_that_no_library_knows_is_not_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", FUTURE, bytes(size(FUTURE)))
    with pytest.raises(UnsupportedLayout, match=f"w: is of the unknown dtype {FUTURE}"):
        converted(folder, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["megatron", "torch_dist"])
def test_what_a_megatron_checkpoint_cannot_hold_is_refused_by_name(tmp_path: Path, to: str) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    weights[GATE] = weights[GATE].to(torch.float8_e4m3fnuz)
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UnsupportedLayout, match=f"{GATE} is F8_E4M3FNUZ, which a Megatron"):
        converted(tmp_path / "hf", tmp_path / "out", to)  # type: ignore[arg-type]


def test_a_torch_file_may_hold_complex_numbers_and_fnuz(tmp_path: Path) -> None:
    weights = {
        "c": torch.ones(3, dtype=torch.complex64),
        "f": torch.ones(3).to(torch.float8_e5m2fnuz),
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    save_file(weights, tmp_path / "model.safetensors")
    found = compare(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert found.summary.verdict == "same"
    assert {t.dtype for t in found.a.tensors.values()} == {"C64", "F8_E5M2FNUZ"}


def test_a_fused_tensor_that_cannot_be_cut_keeps_its_name(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.qkv_proj.weight"
    config = {"model_type": "phi3", "hidden_size": 8, "num_attention_heads": 2,
              "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 4,
              "intermediate_size": 8}  # fmt: skip
    for folder in ("a", "b"):
        write(tmp_path / folder, "F4", bytes(range(12 * 8)), (24, 8))
        file = tmp_path / folder / "model.safetensors"
        content = file.read_bytes().replace(b'"w"', f'"{name}"'.encode())
        (length,) = struct.unpack("<Q", content[:8])
        file.write_bytes(struct.pack("<Q", length + len(name) - 1) + content[8:])
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found[name].status == "same"
