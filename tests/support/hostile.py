"""Files that lie: each is made by a function and named with the error it must bring."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """A way to make a folder or file that must be refused."""

    name: str
    make: Callable[[Path], Path]  # writes into the folder, returns what to open
    errors: tuple[str, ...] = ("CorruptFile",)


# safetensors


def entry(
    shape: object = (2,), dtype: str = "F32", offsets: object = (0, 8), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def safetensors(header: object, body: bytes = bytes(8), length: int | None = None) -> bytes:
    """Return a file with this header, given as bytes or as what JSON can spell."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


GOOD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

SAFETENSORS: Mapping[str, bytes] = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "header of no length": bytes(8),
    "header past the end": safetensors(b"{}", b"", length=100),
    "header one byte past the end": safetensors(b"{}", b"", length=3),
    "header above the limit": safetensors(b"{}", b"", length=100_000_001),
    "header of all bits set": safetensors(b"{}", b"", length=2**64 - 1),
    "not JSON": safetensors(b"hello"),
    "array for an object": safetensors(b"[]", b""),
    "byte order mark": safetensors(b"\xef\xbb\xbf{}", b""),
    "nulls behind the header": safetensors(b"{}\0\0", b""),
    "text behind the header": safetensors(b"{}x", b""),
    "trailing comma": safetensors(GOOD[:-1] + b",}"),
    "comment": safetensors(b"{/**/}", b""),
    "not UTF-8": safetensors(GOOD.replace(b'"a"', b'"\xff"')),
    "half a surrogate pair": safetensors(GOOD.replace(b'"a"', b'"\\ud800"')),
    "raw control character": safetensors(GOOD.replace(b'"a"', b'"\x1b[31m"')),
    "name twice": safetensors(GOOD[:-1] + b"," + GOOD[1:]),
    "dtype twice": safetensors(GOOD.replace(b'{"dtype"', b'{"dtype":"F32","dtype"')),
    "shape twice": safetensors(GOOD.replace(b'{"dtype"', b'{"shape":[1],"dtype"')),
    "metadata twice": safetensors(b'{"__metadata__":{},"__metadata__":{}}', b""),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}}, b""),
    "metadata that is a list": safetensors({"__metadata__": []}, b""),
    "entry that is null": safetensors({"a": None}),
    "entry without shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "half a byte": safetensors({"a": entry((3,), "F4", (0, 2))}),
    "dtype that is a list": safetensors({"a": entry() | {"dtype": ["F32"]}}),
    "dtype that is an object": safetensors({"a": entry() | {"dtype": {}}}),
    "dtype in lower case": safetensors({"a": entry(dtype="f32")}),
    "shape too small for its bytes": safetensors({"a": entry([1])}),
    "shape too large for its bytes": safetensors({"a": entry([3])}),
    "negative shape": safetensors({"a": entry([-2])}),
    "two negative sizes": safetensors({"a": entry([-1, -2])}),
    "float shape": safetensors({"a": entry([2.0])}),
    "shape of true": safetensors({"a": entry([True, 2])}),
    "shape of text": safetensors({"a": entry("2")}),
    "shape of lists": safetensors({"a": entry([[2]])}),
    "NaN shape": safetensors(GOOD.replace(b"[2]", b"[NaN]")),
    "infinite shape": safetensors(GOOD.replace(b"[2]", b"[1e999]")),
    "NaN in a spare field": safetensors(GOOD.replace(b'"dtype"', b'"x":NaN,"dtype"')),
    "minus zero": safetensors(GOOD.replace(b"[0,8]", b"[-0,8]")),
    "size of two to the 64th": safetensors({"a": entry([2**64, 0], offsets=[0, 0])}, b""),
    "shape that overflows": safetensors({"a": entry([2**32, 2**32, 2])}),
    "shape that overflows to nothing": safetensors({"a": entry([2**62, 4], offsets=[0, 0])}, b""),
    "shape that overflows before a zero": safetensors(
        {"a": entry([2**63, 4, 0], offsets=[0, 0])}, b""
    ),
    "three hundred huge sizes": safetensors({"a": entry([2**62] * 300)}),
    "a hundred thousand huge sizes": safetensors({"a": entry([2**62] * 100_000)}),
    "number of five thousand digits": safetensors(GOOD.replace(b"[2]", b"[%s]" % (b"9" * 5000))),
    "offsets inverted": safetensors({"a": entry(offsets=[8, 0])}),
    "negative offset": safetensors({"a": entry(offsets=[-8, 0])}),
    "three offsets": safetensors({"a": entry(offsets=[0, 8, 8])}),
    "offsets of booleans": safetensors(GOOD.replace(b"[0,8]", b"[false,8]")),
    "offsets past the end": safetensors({"a": entry(offsets=[8, 16])}),
    "offsets far past the end": safetensors({"a": entry(offsets=[2**62, 2**62 + 8])}),
    "overlapping tensors": safetensors({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "two names for the same bytes": safetensors({"a": entry(), "b": entry()}),
    "gap between tensors": safetensors({"a": entry(), "b": entry(offsets=[9, 17])}, bytes(17)),
    "gap before the first": safetensors({"a": entry(offsets=[1, 9])}, bytes(9)),
    "bytes behind the last": safetensors({"a": entry()}, bytes(9)),
    "bytes and no tensors": safetensors({}),
    "tensor cut off": safetensors({"a": entry()}, bytes(7)),
    "empty tensor inside another": safetensors({"a": entry(), "b": entry([0], offsets=[4, 4])}),
    "nested a thousand deep": safetensors(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"),
    "nested a million deep": safetensors(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "objects a million deep": safetensors(b'{"a":' * 10**6 + b"1" + b"}" * 10**6),
    "metadata a million deep": safetensors(b'{"__metadata__":' + b"[" * 10**6),
}

# The library reads these; refusing them is a choice: a reader that takes the last of two equal
# names and one that takes the first see different models.
STRICTER = {"name twice"}


def single_safetensors(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(content)
        return folder

    return make


# indices and configs beside weights


def indexed(weight_map: object, *, good: bool = True) -> Callable[[Path], Path]:
    """Return a maker of a folder with one good file and this index."""

    def make(folder: Path) -> Path:
        if good:
            (folder / "one.safetensors").write_bytes(safetensors(GOOD))
        index = folder / "model.safetensors.index.json"
        document = (
            weight_map
            if isinstance(weight_map, bytes)
            else json.dumps({"weight_map": weight_map}).encode()
        )
        index.write_bytes(document)
        return folder

    return make


def outside(kind: str) -> Callable[[Path], Path]:
    """Return a maker of an index that leads to a file outside of its folder."""

    def make(folder: Path) -> Path:
        secret = folder / "secret.safetensors"
        secret.write_bytes(safetensors(GOOD))
        inside = folder / "checkpoint"
        inside.mkdir()
        name = {"up": "../secret.safetensors", "absolute": str(secret)}[kind]
        return indexed({"a": name}, good=False)(inside)

    return make


TWICE = b'{"weight_map":{"a":"two.safetensors","a":"one.safetensors"}}'
LOST = ("CorruptFile", "MissingShard")

INDICES = [
    Hostile("index of a missing file", indexed({"a": "two.safetensors"}), ("MissingShard",)),
    Hostile("index with a tensor too many", indexed(dict.fromkeys("ab", "one.safetensors"))),
    Hostile("index of nothing", indexed({}), ("CorruptFile", "NotACheckpoint")),
    Hostile("index that is not JSON", indexed(b"{")),
    Hostile("index that is a list", indexed(b"[]")),
    Hostile("index that is nested deep", indexed(b"[" * 10**6)),
    Hostile("index without a map", indexed(b"{}")),
    Hostile("index of numbers", indexed({"a": 1})),
    Hostile("index of nulls", indexed({"a": None})),
    Hostile("index of a folder", indexed({"a": "."})),
    Hostile("index of the folder above", indexed({"a": ".."})),
    Hostile("index of an empty name", indexed({"a": ""})),
    Hostile("index of a name with a null", indexed({"a": "one.safetensors\0"})),
    Hostile("index of half a surrogate", indexed(b'{"weight_map":{"a":"\\ud800"}}'), LOST),
    Hostile("index that names a tensor twice", indexed(TWICE)),
    Hostile("index with a path upwards", outside("up")),
    Hostile("index with an absolute path", outside("absolute")),
]  # fmt: skip


def swapped_index(folder: Path) -> Path:
    (folder / "two.safetensors").write_bytes(safetensors(GOOD.replace(b'"a"', b'"b"')))
    return indexed({"a": "two.safetensors", "b": "one.safetensors"})(folder)


def huge_index(folder: Path) -> Path:
    indexed({})(folder)
    os.truncate(folder / "model.safetensors.index.json", 1 << 40)  # sparse
    return folder


INDICES += [
    Hostile("index with files swapped", swapped_index),
    Hostile("index of a terabyte", huge_index, ("CorruptFile", "UnreadableFile")),
]
