"""Read what a torch.save file (an uncompressed zip) holds: no torch needed, no tensor data read."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import TensorRef
from ckptdiff.dtypes import BY_TORCH, ITEMSIZE
from ckptdiff.errors import CkptDiffError, CorruptFile
from ckptdiff.formats.files import LFS_POINTER, not_fetched, open_regular, read_at
from ckptdiff.formats.inert import PLAIN, Global, told
from ckptdiff.formats.unpickle import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptdiff.formats.inert import Builders

MAX_PICKLE = 1 << 28  # bytes; the largest real data.pkl seen is some MB
MAX_DIRECTORY = 1 << 26  # bytes of the zip's list of members, of which each takes some 100
MAX_DIMS = 64  # torch's own limit
MAX_ARGUMENTS = 16  # of a function that makes a tensor; torch's have up to 8
MAX_COUNT = 1 << 62  # elements; nothing larger can be an index
# What the tensors of a file may claim in all, in bytes: tensors may share a storage, as tied ones
# do, and a stride of 0 repeats elements. In a file of a hundred bytes both could claim anything.
CLAIM, CLAIM_PER_BYTE = 1 << 28, 100

# Each storage class of torch, and the dtype of its elements as safetensors names it.
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}  # fmt: skip

# A pickle of the number that torch.save wrote in front before it wrote zips.
_OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LENGTHS = struct.Struct("<HH")  # lengths of name and extra field in a member's local header
# In a record of the zip's directory: flags, method, both sizes, the lengths of name, extra field
# and comment, and the offset of the local header.
_RECORD = struct.Struct("<8xHH8xIIHHH8xI")


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage of one or several tensors: consecutive elements in the file."""

    dtype: str
    offset: int  # in bytes
    nbytes: int


@dataclass(frozen=True, slots=True)
class UnsupportedTensor:
    """A tensor that is not plain strided elements (sparse, quantised, an unknown dtype)."""

    what: str
    # Of a tensor of a class of its own: the class, and what it is made of, as in the pickle.
    kind: object = None
    state: object = None


def read_index(file: Path, *, before: str | None = None) -> Any:
    """Return what `file` holds: containers and plain values as they are, tensors as TensorRef.

    The refs have no name; whoever flattens the tree names them. With `before`, reading stops at
    that key of the outermost dictionary if a container follows it. Raises CorruptFile for a file
    that contradicts itself, is compressed, or was written by torch older than 1.6.
    """
    with open_regular(file) as fd, _naming(file):
        return _Reader(file, fd, 0, os.fstat(fd).st_size).read(before)


def begins_as_torch(head: bytes) -> bool:
    """Return whether a file that starts with `head` is of torch.save, of the old kind included."""
    if head.startswith(_OLD_MAGIC):
        return True
    if head[:4] != b"PK\x03\x04" or len(head) < 30:
        return False
    (length,) = struct.unpack_from("<H", head, 26)
    return head[30 : 30 + length].endswith(b"/data.pkl")


def read_blob(file: Path, fd: int, start: int, length: int) -> Any:
    """Return what a torch.save file inside an open file holds: `length` bytes from `start` on."""
    with _naming(file):
        return _Reader(file, fd, start, length).read(None)


def named(ref: TensorRef, name: str) -> TensorRef:
    """Return a ref under another name."""
    return TensorRef(name, ref.shape, ref.dtype, ref.file, ref.offset, ref.stride)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the file's name in front of the text of an error."""
    try:
        yield
    except CkptDiffError as error:
        raise type(error)(f"{file}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Member:
    """One record of the zip's central directory."""

    header: int  # offset of its local header
    size: int
    name_length: int
    refused: str = ""  # why its data cannot be read; other members can


class _Reader:
    """Reads one torch.save file, or a part of a file that is one."""

    def __init__(self, file: Path, fd: int, start: int, size: int) -> None:
        self.file = file
        self.fd = fd
        self.start = start  # of the zip in the file; offsets inside the zip count from here
        self.size = size
        self.members = self._central_directory()
        self.storages: dict[str, Storage] = {}
        self.claimed = 0  # bytes, by the shapes of the tensors
        self.listed = 0  # sizes and strides that are lists, and copied
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
        builders: Builders = {
            **PLAIN,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor_v2,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_v3,
            ("torch._tensor", "_rebuild_from_type_v2"): self._tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
            ("torch", "Size"): lambda sizes: tuple(sizes),
        }
        data = self._content(self.pickle, MAX_PICKLE)
        return load(data, self._storage, builders, before=before)

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

    def _storage(self, pid: object) -> Storage | UnsupportedTensor:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise CorruptFile(f"a reference to data of an unknown kind: {told(pid)}")
        _, kind, key, _, numel = pid
        if type(key) is not str or type(numel) is not int:
            raise CorruptFile(f"a storage called {told(key)} of {told(numel)} elements")
        word = kind.name if isinstance(kind, Global) and kind.module.startswith("torch") else ""
        if word not in STORAGES:
            return UnsupportedTensor(f"{told(kind)} tensor")
        known = self.storages.get(key)
        if known is None:
            name = f"{self.prefix}data/{key}"
            if name not in self.members:
                raise CorruptFile(f"storage {told(key)} is not in the file")
            known = self.storages[key] = self._stored(STORAGES[word], name)
        if numel < 0 or numel * ITEMSIZE[STORAGES[word]] > known.nbytes:
            raise CorruptFile(
                f"storage {told(key)} claims {told(numel)} elements and has {known.nbytes} bytes"
            )
        if STORAGES[word] == known.dtype:
            return known
        return Storage(STORAGES[word], known.offset, known.nbytes)

    def _stored(self, dtype: str, member: str) -> Storage:
        offset, nbytes = self._place(member)
        return Storage(dtype, self.start + offset, nbytes)

    def _tensor_v2(
        self, storage: object, offset: int, shape: object, stride: object, *_: object
    ) -> TensorRef | UnsupportedTensor:
        if isinstance(storage, UnsupportedTensor):
            return storage
        if not isinstance(storage, Storage):
            raise CorruptFile("a tensor without a storage")
        return self._ref(storage, storage.dtype, offset, shape, stride)

    def _tensor_v3(
        self, storage: object, offset: int, shape: object, stride: object, *rest: object
    ) -> TensorRef | UnsupportedTensor:
        dtype = next((g.name for g in rest if isinstance(g, Global) and g.module == "torch"), "")
        if dtype not in BY_TORCH or not isinstance(storage, Storage):
            return UnsupportedTensor(f"{dtype or 'unknown'} tensor")
        return self._ref(storage, BY_TORCH[dtype], offset, shape, stride)

    def _tensor_of_type(
        self, build: object, kind: object, arguments: object, state: object = None, *_: object
    ) -> TensorRef | UnsupportedTensor:
        """Return a tensor that was saved with attributes of its own: it is still that tensor."""
        plain = kind in (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))
        if not plain or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            return UnsupportedTensor(f"{told(kind)} tensor", kind, state)
        if build == Global("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor_v2(*arguments)
        if build == Global("torch._utils", "_rebuild_tensor_v3"):
            return self._tensor_v3(*arguments)
        return UnsupportedTensor(f"{told(build)} tensor")

    def _ref(
        self, storage: Storage, dtype: str, offset: object, shape: object, stride: object
    ) -> TensorRef:
        sizes, steps = self._sizes(shape), self._sizes(stride)
        if (
            sizes is None
            or steps is None
            or len(sizes) != len(steps)
            or type(offset) is not int
            or not 0 <= offset < MAX_COUNT
        ):
            raise CorruptFile(
                f"a tensor of shape {told(shape)}, strides {told(stride)} at element {told(offset)}"
            )
        itemsize = ITEMSIZE[dtype]
        end = offset + 1
        for size, step in zip(sizes, steps, strict=True):
            end += (size - 1) * step
        if end * itemsize > storage.nbytes and 0 not in sizes:
            raise CorruptFile(
                f"a tensor of shape {told(sizes)} with strides {told(steps)} at element {offset} "
                f"leaves its storage of {storage.nbytes} bytes"
            )
        self.claimed += prod(sizes) * itemsize
        if self.claimed > CLAIM + CLAIM_PER_BYTE * self.size:
            raise CorruptFile(
                f"a tensor of shape {told(sizes)} with strides {told(steps)}: the tensors claim "
                f"{told(self.claimed)} bytes in all, more than {CLAIM_PER_BYTE} for each of the "
                f"{self.size} that are there"
            )
        return TensorRef("", sizes, dtype, self.file, storage.offset + offset * itemsize, steps)

    def _sizes(self, value: object) -> tuple[int, ...] | None:
        """Return a shape or strides as a tuple; None if it is no short list of plausible counts."""
        if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMS:
            return None
        for n in value:
            if type(n) is not int or not 0 <= n < MAX_COUNT:
                return None
        if isinstance(value, tuple):
            return value
        self.listed += len(value)
        if self.listed > self.size:
            raise CorruptFile("its shapes repeat lists")
        return tuple(value)

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
                raise CorruptFile(
                    "written by torch.save before 1.6, in one pickle; load it and save it once "
                    "with a current torch"
                )
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
