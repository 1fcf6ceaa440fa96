"""What a file claims is held against what it has, and memory against its bytes."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from ckptdiff.checkpoint import Chunk, TensorRef
from ckptdiff.errors import CorruptFile, MissingShard, UnsupportedLayout
from ckptdiff.formats import open_checkpoint, torch_dist, tree
from ckptdiff.formats.safetensors import read_header
from ckptdiff.formats.wholes import Whole
from tests.support.hostile import safetensors
from tests.support.hostile_kinds import instance, of_dcp
from tests.support.hostile_system import megatron, rank_file
from tests.support.hostile_torch import fragment, hf_bin, mapping, program, tensor, torch_zip
from tests.support.pace import pace

if TYPE_CHECKING:
    from pathlib import Path


def test_a_tensor_that_repeats_its_elements_without_end_is_refused(tmp_path: Path) -> None:
    body = mapping({"a": tensor(shape=(2**45,), stride=(0,))})
    with pytest.raises(CorruptFile, match=r"claim 140737488355328 bytes in all, more than 100 "):
        open_checkpoint(hf_bin(torch_zip(program(body)))(tmp_path))


def test_tensors_that_claim_too_much_together_are_refused(tmp_path: Path) -> None:
    body = mapping({f"a{n}": tensor(shape=(2**24,), stride=(0,)) for n in range(9)})
    with pytest.raises(CorruptFile, match="in all"):
        open_checkpoint(hf_bin(torch_zip(program(body)))(tmp_path))


def test_a_tensor_that_is_expanded_and_one_that_is_tied_are_read(tmp_path: Path) -> None:
    body = mapping({"mask": tensor(shape=(1024, 2), stride=(0, 1)), "tied": tensor()})
    checkpoint = open_checkpoint(hf_bin(torch_zip(program(body)))(tmp_path))
    assert checkpoint.shards[0].tensors["mask"].shape == (1024, 2)


@pytest.mark.parametrize("name", ["decoder.layers.a", "decoder.layers.mlp.experts.experts.a"])
@pytest.mark.parametrize("shape", [(1 << 40, 0), (1 << 22, 1)])
def test_a_stack_of_more_layers_than_there_can_be_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, int]
) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    ref = TensorRef(name, shape, "F32", tmp_path / "x", 0, (1, 1))
    chunk = Chunk(ref, tuple((0, size) for size in shape))
    before = time.thread_time()
    with pytest.raises(CorruptFile, match="more layers or experts than there can be"):
        torch_dist.lay_out(tmp_path, [Whole(name, shape, "F32", (chunk,))])
    assert time.thread_time() - before < 100 * pace()


def test_chunks_that_claim_more_than_their_files_hold_are_refused(tmp_path: Path) -> None:
    folder = of_dcp()(tmp_path)
    raw = (folder / ".metadata").read_bytes()
    length = fragment((folder / "x").stat().st_size)
    assert raw.count(length) == 1
    (folder / ".metadata").write_bytes(raw.replace(length, fragment(1 << 40)))
    with pytest.raises(CorruptFile, match=r"puts chunks of 1099511627776 bytes into files of \d+"):
        open_checkpoint(folder)


def test_a_directory_of_a_zip_as_large_as_its_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    size = 1 << 31
    with file.open("wb") as out:
        out.write(b"PK\x03\x04")
        out.seek(size)
        out.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, size, 0, 0))
    with pytest.raises(CorruptFile, match=f"directory has {size} bytes, more than can be right"):
        open_checkpoint(tmp_path)


def test_a_zip64_field_that_ends_early_is_refused(tmp_path: Path) -> None:
    raw = torch_zip(program(mapping({"a": tensor()})))
    at = raw.index(b"PK\x01\x02")
    start = raw.rindex(b"PK\x05\x06")
    record = bytearray(raw[at:start])
    record[20:28] = b"\xff" * 8  # both sizes
    name_length = struct.unpack_from("<H", record, 28)[0]
    record[30:32] = struct.pack("<H", 8)
    extra = struct.pack("<HHI", 1, 0xFFFF, 0)
    record[46 + name_length : 46 + name_length] = extra
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(record), at, 0)
    (tmp_path / "pytorch_model.bin").write_bytes(raw[:at] + record + end)
    with pytest.raises(CorruptFile, match="zip64 member lacks its sizes"):
        open_checkpoint(tmp_path)


def test_a_rank_of_a_file_s_name_is_held_against_the_files(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "consolidated.999999999999.pth").write_bytes(b"")
    with pytest.raises(MissingShard, match="is rank 999999999999, and there are 1 files"):
        open_checkpoint(tmp_path)


def peak(file: Path) -> int:
    """Return the most memory that reading a header takes at once, in bytes."""
    tracemalloc.start()
    try:
        read_header(file)
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


@pytest.mark.slow
def test_a_header_takes_memory_in_proportion_to_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    header = {f"{n:x}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(4000)}
    raw = json.dumps(header, separators=(",", ":")).encode()
    file.write_bytes(safetensors(raw, b""))
    assert peak(file) < 10 * len(raw) + 100_000


@pytest.mark.parametrize("spare", ["[]", "{}", '""', '"a"'])
def test_a_header_that_is_no_list_of_tensors_is_refused_before_it_is_parsed(
    tmp_path: Path, spare: str
) -> None:
    file = tmp_path / "model.safetensors"
    many = ",".join([spare] * 1_200_000)
    file.write_bytes(safetensors(f'{{"a":[{many}]}}'.encode(), b""))
    tracemalloc.start()
    with pytest.raises(CorruptFile, match="than tensors can have"):
        read_header(file)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * file.stat().st_size + 1_000_000


@pytest.mark.parametrize("key", [1, ("1",), None])
def test_names_that_read_alike_are_told_and_not_dropped(tmp_path: Path, key: object) -> None:
    other = {("1",): "tuple of 1"}.get(key, str(key))  # type: ignore[call-overload]
    pushed = b"}(" + fragment(key) + tensor() + fragment(other) + tensor() + b"u"
    with pytest.raises(UnsupportedLayout, match=f"two tensors are called '{other}'"):
        open_checkpoint(hf_bin(torch_zip(program(pushed)))(tmp_path))
    args = b"}(" + fragment(key) + b"N" + fragment(other) + b"Nu"
    rank = rank_file({"args": instance("argparse", "Namespace", args)})
    (tmp_path / "m").mkdir()
    with pytest.raises(CorruptFile, match=f"two args are called '{other}'"):
        open_checkpoint(megatron(rank)(tmp_path / "m"))


def test_tensors_in_a_part_that_has_two_names_are_told_and_not_dropped(tmp_path: Path) -> None:
    shared = b"}" + fragment("w") + tensor() + b"sq\x09"
    body = b"}(" + fragment("a") + shared + fragment("b") + b"h\x09u"
    with pytest.raises(UnsupportedLayout, match="under another name as well"):
        open_checkpoint(hf_bin(torch_zip(program(body)))(tmp_path))


def test_more_weights_than_entries_are_listed_are_all_read(tmp_path: Path) -> None:
    many = b"".join(fragment(str(n)) + b"h\x09" for n in range(50))
    body = tensor() + b"q\x090}(" + many + b"u"
    with mock.patch.object(tree, "MAX_ENTRIES", 10):
        found = open_checkpoint(hf_bin(torch_zip(program(body)))(tmp_path))
    assert len(found.shards[0].tensors) == 50


def test_an_error_of_a_file_s_own_words_is_short(tmp_path: Path) -> None:
    long = "x" * 10_000
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": long}}))
    with pytest.raises(CorruptFile, match="only files beside the index") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 300 + len(os.fspath(tmp_path))
