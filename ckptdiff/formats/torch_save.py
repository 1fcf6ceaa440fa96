"""Write a file as torch.save does, without torch: a pickle of the tree and stored zip members."""

from __future__ import annotations

import struct
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.formats.torch_zip import STORAGES
from ckptdiff.tensors import ITEMSIZE, contiguous

if TYPE_CHECKING:
    from pathlib import Path

_STORAGE_OF = {word: name for name, word in STORAGES.items() if name != "UntypedStorage"}
_ALIGNMENT = 64  # bytes, as torch aligns tensors for mapping


@dataclass(frozen=True, slots=True)
class Data:
    """A tensor to write."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes  # row-major, little-endian


def save(tree: dict[str, Any], file: Path) -> None:
    """Write nested dicts, lists, plain values, Namespaces and `Data`; `torch.load` reads it."""
    writer = _Pickle()
    pickle = writer.dump(tree)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, f"{file.stem}/data.pkl", pickle)
        _write(archive, f"{file.stem}/byteorder", b"little")
        for key, data in enumerate(writer.storages):
            _write(archive, f"{file.stem}/data/{key}", data.content)
        _write(archive, f"{file.stem}/version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + 4
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


class _Pickle:
    """Emits pickle protocol 2, the one torch.save uses."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.storages: list[Data] = []

    def dump(self, tree: object) -> bytes:
        self._value(tree)
        return bytes(self.out + b".")

    def _value(self, value: object) -> None:
        out = self.out
        match value:
            case None:
                out += b"N"
            case bool():
                out += b"\x88" if value else b"\x89"
            case int() if -(1 << 31) <= value < 1 << 31:
                out += struct.pack("<ci", b"J", value)
            case float():
                out += struct.pack(">cd", b"G", value)
            case str():
                text = value.encode()
                out += struct.pack("<cI", b"X", len(text)) + text
            case dict():
                out += b"}("
                for key, item in value.items():
                    self._value(key)
                    self._value(item)
                out += b"u"
            case list():
                out += b"]("
                for item in value:
                    self._value(item)
                out += b"e"
            case Namespace():
                out += b"cargparse\nNamespace\n)\x81"
                self._value(vars(value))
                out += b"b"
            case Data():
                self._tensor(value)
            case _:
                raise TypeError(f"{type(value).__name__} cannot be written")

    def _tensor(self, data: Data) -> None:
        out = self.out
        out += b"ctorch._utils\n_rebuild_tensor_v2\n("
        out += b"("
        self._value("storage")
        out += b"ctorch\n%s\n" % _STORAGE_OF[data.dtype].encode()
        self._value(str(len(self.storages)))
        self._value("cpu")
        self._value(len(data.content) // ITEMSIZE[data.dtype])
        out += b"tQ"
        self._value(0)
        for sizes in (data.shape, contiguous(data.shape)):
            out += b"("
            for size in sizes:
                self._value(size)
            out += b"t"
        out += b"\x89ccollections\nOrderedDict\n)RtR"
        self.storages.append(data)
