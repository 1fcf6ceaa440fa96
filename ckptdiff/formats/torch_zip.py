"""Read what a torch.save file (an uncompressed zip) holds: no torch needed, no tensor data read."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.files import LFS_POINTER, not_fetched, open_regular, read_at
from ckptdiff.formats.inert import told
from ckptdiff.formats.torch_tensors import CLAIM as CLAIM
from ckptdiff.formats.torch_tensors import CLAIM_PER_BYTE as CLAIM_PER_BYTE
from ckptdiff.formats.torch_tensors import MAX_COUNT as MAX_COUNT
from ckptdiff.formats.torch_tensors import MAX_DIMS as MAX_DIMS
from ckptdiff.formats.torch_tensors import MAX_PICKLE, Storage, Tensors, naming
from ckptdiff.formats.torch_tensors import STORAGES as STORAGES
from ckptdiff.formats.torch_tensors import UnsupportedTensor as UnsupportedTensor
from ckptdiff.formats.torch_tensors import named as named
from ckptdiff.formats.unpickle import load

if TYPE_CHECKING:
    from pathlib import Path

MAX_DIRECTORY = 1 << 26  # bytes of the zip's list of members, of which each takes some 100
# A pickle of the number that torch.save wrote in front before it wrote zips.
OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LENGTHS = struct.Struct("<HH")  # lengths of name and extra field in a member's local header
# In a record of the zip's directory: flags, method, both sizes, the lengths of name, extra field
# and comment, and the offset of the local header.
_RECORD = struct.Struct("<8xHH8xIIHHH8xI")


def read_index(file: Path, *, before: str | None = None) -> Any:
    """Return what `file` holds: containers and plain values as they are, tensors as TensorRef.

    The refs have no name; whoever flattens the tree names them. With `before`, reading stops at
    that key of the outermost dictionary if a container follows it. Raises CorruptFile for a file
    that contradicts itself, or is compressed.
    """
    with open_regular(file) as fd, naming(file):
        size = os.fstat(fd).st_size
        if read_at(fd, 0, len(OLD_MAGIC)) == OLD_MAGIC:
            # Imported late: few files are of the old kind.
            from ckptdiff.formats.torch_legacy import LegacyReader

            return LegacyReader(file, fd, size).read(before)
        return _Reader(file, fd, 0, size).read(before)


def begins_as_torch(head: bytes) -> bool:
    """Return whether a file that starts with `head` is of torch.save, of the old kind included."""
    if head.startswith(OLD_MAGIC):
        return True
    if head[:4] != b"PK\x03\x04" or len(head) < 30:
        return False
    (length,) = struct.unpack_from("<H", head, 26)
    return head[30 : 30 + length].endswith(b"/data.pkl")


def read_blob(file: Path, fd: int, start: int, length: int) -> Any:
    """Return what a torch.save file inside an open file holds: `length` bytes from `start` on."""
    with naming(file):
        return _Reader(file, fd, start, length).read(None)


@dataclass(frozen=True, slots=True)
class _Member:
    """One record of the zip's central directory."""

    header: int  # offset of its local header
    size: int
    name_length: int
    refused: str = ""  # why its data cannot be read; other members can


class _Reader(Tensors):
    """Reads one torch.save file, or a part of a file that is one."""

    def __init__(self, file: Path, fd: int, start: int, size: int) -> None:
        super().__init__(file, size)
        self.fd = fd
        self.start = start  # of the zip in the file; offsets inside the zip count from here
        self.members = self._central_directory()
        self.storages: dict[str, Storage] = {}
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CorruptFile(f"{len(pickles)} members are called data.pkl; a torch file has one")
        self.pickle = pickles[0]
        self.prefix = self.pickle.removesuffix("data.pkl")

    def read(self, before: str | None) -> Any:
        if f"{self.prefix}byteorder" in self.members:
            order = self._content(f"{self.prefix}byteorder", 16)
            if order != b"little":
                raise CorruptFile(f"byte order {order!r}; only little-endian files can be read")
        data = self._content(self.pickle, MAX_PICKLE)
        return load(data, self.storage, self.builders, before=before)

    def _read(self, offset: int, size: int) -> bytes:
        return read_at(self.fd, self.start + offset, size)

    def _content(self, name: str, limit: int) -> bytes:
        offset, size = self._place(name)
        if size > limit:
            raise CorruptFile(f"member {name} has {size} bytes, more than can be right")
        return self._read(offset, size)

    def _place(self, name: str) -> tuple[int, int]:
        """Return offset and size of a member's data, read from its local header."""
        member = self.members[name]
        if member.refused:
            raise CorruptFile(f"member {name} is {member.refused}; torch.save stores")
        header = os.pread(self.fd, 30, self.start + member.header)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise CorruptFile(f"member {name}: no local header at byte {member.header}")
        name_length, extra_length = _LENGTHS.unpack_from(header, 26)
        offset = member.header + 30 + name_length + extra_length
        if offset + member.size > self.size:
            raise CorruptFile(
                f"member {name} needs bytes {offset} to {offset + member.size}, the file has "
                f"{self.size}: it was cut off, copy it again"
            )
        return offset, member.size

    def _stored(self, key: str, dtype: str, numel: int) -> Storage:  # noqa: ARG002 -- of both
        known = self.storages.get(key)
        if known is None:
            name = f"{self.prefix}data/{key}"
            if name not in self.members:
                raise CorruptFile(f"storage {told(key)} is not in the file")
            offset, nbytes = self._place(name)
            known = self.storages[key] = Storage(dtype, self.start + offset, nbytes)
        return known

    def _central_directory(self) -> dict[str, _Member]:
        """Return the zip's members by name.

        Raises CorruptFile unless each is there once, and inside the file. One that is compressed
        is refused when it is read: programs put notes of their own beside what torch wrote.
        """
        records, size, offset = self._end_of_directory()
        directory = self._read(offset, size)
        if len(directory) < size:
            raise CorruptFile("the zip directory is cut off")
        members: dict[str, _Member] = {}
        pos = 0
        for _ in range(records):
            if directory[pos : pos + 4] != b"PK\x01\x02" or pos + 46 > size:
                raise CorruptFile("the zip directory is damaged")
            flags, method, packed, full, name_len, extra_len, comment_len, header = (
                _RECORD.unpack_from(directory, pos)
            )
            name_end = pos + 46 + name_len
            name = directory[pos + 46 : name_end].decode("utf-8", "backslashreplace")
            extra = directory[name_end : name_end + extra_len]
            if 0xFFFFFFFF in (packed, full, header):
                full, packed, header = _zip64(extra, full, packed, header)
            refused = "compressed" if method != 0 or packed != full else ""
            refused = "encrypted" if flags & 1 else refused
            if name in members:
                raise CorruptFile(f"member {told(name)} is in the zip twice")
            if header + 30 + packed > self.size:
                raise CorruptFile(
                    f"member {told(name)} of {packed} bytes at {header} leaves the file "
                    f"of {self.size}"
                )
            members[name] = _Member(header, packed, name_len, refused)
            pos = name_end + extra_len + comment_len
        _check_overlaps(members)
        return members

    def _end_of_directory(self) -> tuple[int, int, int]:
        """Return (number of records, size, offset) of the zip's directory."""
        head = self._read(0, len(LFS_POINTER))
        tail_at = max(0, self.size - 65557)
        tail = self._read(tail_at, self.size - tail_at)
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) - end < 22:
            if head[:4] == b"PK\x03\x04":
                raise CorruptFile("the zip has no directory: the file was cut off, copy it again")
            if head[:2] == b"\x80\x02":
                raise CorruptFile("is a pickle, and not one that torch.save wrote")
            raise CorruptFile(not_fetched(head) or "not a file that torch.save wrote")
        records, size, offset = struct.unpack_from("<HII", tail, end + 10)
        if records == 0xFFFF or 0xFFFFFFFF in (size, offset):
            locator = tail.rfind(b"PK\x06\x07", 0, end)
            if locator >= 0:
                (at,) = struct.unpack_from("<Q", tail, locator + 8)
                record = self._read(at, 56) if at < self.size else b""
                if len(record) < 56 or record[:4] != b"PK\x06\x06":
                    raise CorruptFile("the zip64 directory record is damaged")
                records, size, offset = struct.unpack_from("<QQQ", record, 32)
        if offset + size > self.size or records * 46 > size:
            raise CorruptFile("the zip directory lies outside the file")
        if size > MAX_DIRECTORY:
            raise CorruptFile(f"the zip directory has {size} bytes, more than can be right")
        return records, size, offset


def _zip64(extra: bytes, full: int, packed: int, header: int) -> tuple[int, int, int]:
    """Return the three numbers; those that need 64 bits are taken from the zip64 extra field."""
    pos = 0
    while pos + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, pos)
        if tag == 1:
            count = min(length, len(extra) - pos - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, pos + 4))
            try:
                full = next(wide) if full == 0xFFFFFFFF else full
                packed = next(wide) if packed == 0xFFFFFFFF else packed
                header = next(wide) if header == 0xFFFFFFFF else header
            except StopIteration:
                break
            return full, packed, header
        pos += 4 + length
    raise CorruptFile("a zip64 member lacks its sizes")


def _check_overlaps(members: dict[str, _Member]) -> None:
    """Raise CorruptFile if members share bytes, as in a zip bomb."""
    end = 0
    for name, member in sorted(members.items(), key=lambda item: item[1].header):
        if member.header < end:
            raise CorruptFile(f"member {told(name)} overlaps the one before it")
        end = member.header + 30 + member.name_length + member.size
