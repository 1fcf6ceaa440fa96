"""Members and files beyond four gigabytes, as sparse files: what zip64 is for."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.conversion.crc32 import combined
from ckptdiff.formats import torch_zip
from ckptdiff.formats.pickling import Blank
from ckptdiff.formats.torch_save import lay_out

if TYPE_CHECKING:
    from pathlib import Path

HALF = 2_200_000_000  # elements of two bytes: a member of 4.4 GB


@pytest.mark.parametrize("shapes", [[(HALF,)], [(3,), (HALF,), (5,)], [(HALF // 2,)] * 3])
def test_a_large_file_is_read_by_torch_and_zipfile(
    tmp_path: Path, shapes: list[tuple[int, ...]]
) -> None:
    tree = {"model": {f"w{i}": Blank("BF16", shape) for i, shape in enumerate(shapes)}}
    layout, _ = lay_out(tree, "large")
    file = tmp_path / "large.pt"
    with file.open("wb") as out:
        for offset, content in layout.fixed:
            out.seek(offset)
            out.write(content)
        out.truncate(layout.nbytes)
        for slot in layout.slots:
            out.seek(slot.offset)
            out.write(b"\x80\x3f")  # one
    assert file.stat().st_size == layout.nbytes > 1 << 32
    loaded = torch.load(file, weights_only=True, mmap=True)["model"]
    assert [tuple(loaded[f"w{i}"].shape) for i in range(len(shapes))] == shapes
    assert [float(loaded[f"w{i}"][0]) for i in range(len(shapes))] == [1.0] * len(shapes)
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
    for i, shape in enumerate(shapes):
        assert members[f"large/data/{i}"].file_size == 2 * shape[0]
    refs = torch_zip.read_index(file)["model"]
    assert [refs[f"w{i}"].offset for i in range(len(shapes))] == [s.offset for s in layout.slots]


@given(st.lists(st.binary(max_size=200)))
def test_checksums_of_parts_are_joined(parts: list[bytes]) -> None:
    whole = combined((zlib.crc32(part), len(part)) for part in parts)
    assert whole == zlib.crc32(b"".join(parts))
