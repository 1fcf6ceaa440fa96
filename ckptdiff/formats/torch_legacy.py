"""Read a file that torch.save wrote before torch 1.6: pickles one behind the other, then the data.

They are a magic number, a version, a description of the machine, what was saved, and the keys of
its storages; the storages follow in the order of the keys, each behind the number of its elements.
Source: _legacy_save in torch.serialization, which `_use_new_zipfile_serialization=False` still asks
for.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile
from ckptdiff.formats.files import read_at
from ckptdiff.formats.inert import told
from ckptdiff.formats.pickle_limits import end_of
from ckptdiff.formats.torch_tensors import MAX_PICKLE, Storage, Tensors
from ckptdiff.formats.unpickle import load

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1001
_WINDOW = 1 << 20  # bytes that are read at first to find the end of a pickle


class LegacyReader(Tensors):
    """Reads one file, its pickle twice: only behind it is told where the storages lie."""

    fields_of_id = 6  # the last one is None, or of torch 0.3: a part of a storage

    def __init__(self, file: Path, fd: int, size: int) -> None:
        super().__init__(file, size)
        self.fd = fd
        self.wanted: dict[str, Storage] = {}  # by the pickle, which says how large each is
        self.placed: dict[str, Storage] | None = None  # where they lie

    def read(self, before: str | None) -> Any:
        """Return what the file holds, up to the key `before`. Raises CorruptFile."""
        _, pos = self._pickle(0)  # the magic number
        version, pos = self._pickle(pos)
        if load(version) != _VERSION:
            raise CorruptFile(f"version {told(load(version))} of torch.save's format is not known")
        machine, pos = self._pickle(pos)
        stated = load(machine)
        if not isinstance(stated, dict) or stated.get("little_endian") is not True:
            raise CorruptFile("was not written on a little-endian machine")
        saved, pos = self._pickle(pos)
        load(saved, self.storage, self.builders)
        keys, pos = self._pickle(pos)
        self.placed = self._places(load(keys), pos)
        self.claimed = self.listed = 0
        return load(saved, self.storage, self.builders, before=before)

    def storage(self, pid: object) -> Any:
        if isinstance(pid, tuple) and len(pid) == self.fields_of_id and pid[5] is not None:
            raise CorruptFile("a tensor is a part of a storage as torch 0.3 wrote them")
        return super().storage(pid)

    def _stored(self, key: str, dtype: str, numel: int) -> Storage:
        if self.placed is None:
            wanted = Storage(dtype, 0, max(numel, 0) * ITEMSIZE[dtype])
            return self.wanted.setdefault(key, wanted)
        return self.placed[key]

    def _pickle(self, pos: int) -> tuple[bytes, int]:
        """Return the pickle that starts at a byte, and where it ends."""
        window = _WINDOW
        while True:
            data = read_at(self.fd, pos, min(window, MAX_PICKLE))
            end = end_of(data)
            if end is not None:
                return data[:end], pos + end
            if pos + len(data) >= self.size:
                raise CorruptFile("ends in the middle of a pickle: it was cut off, copy it again")
            if window >= MAX_PICKLE:
                raise CorruptFile(f"has a pickle of more than {MAX_PICKLE} bytes")
            window *= 4

    def _places(self, keys: object, pos: int) -> dict[str, Storage]:
        """Return where the storages lie that follow the pickles, each behind its length."""
        if not isinstance(keys, list) or not all(type(key) is str for key in keys):
            raise CorruptFile(f"{told(keys)} is in the place of the keys of its data")
        if len(set(keys)) < len(keys) or set(keys) != self.wanted.keys():
            raise CorruptFile("the storages that follow are not those that the pickle names")
        placed = {}
        for key in keys:
            wanted = self.wanted[key]
            length = read_at(self.fd, pos, 8)
            (numel,) = struct.unpack("<q", length) if len(length) == 8 else (-1,)
            nbytes = numel * ITEMSIZE[wanted.dtype]
            if nbytes != wanted.nbytes or pos + 8 + nbytes > self.size:
                raise CorruptFile(
                    f"storage {told(key)}, to be {told(wanted.nbytes)} bytes at byte {pos} of "
                    f"{self.size}, is not there: it was cut off, copy it again"
                )
            placed[key] = Storage(wanted.dtype, pos + 8, nbytes)
            pos += 8 + nbytes
        return placed
