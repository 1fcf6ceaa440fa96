"""Read safetensors headers without loading tensors."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import threading
from functools import lru_cache
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import SHAPES, TensorRef, contiguous
from ckptdiff.dtypes import BELOW_A_BYTE, ITEMSIZE
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.formats.files import LFS_POINTER, not_fetched, open_regular, read_at
from ckptdiff.formats.json_header import entries
from ckptdiff.formats.layout import FileLayout, Slot
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MAX_DIMS = 64  # torch's own limit
METADATA = "__metadata__"
SHARDING = "DCP_SHARDING_INFO"  # the metadata with which DCP marks its files
_SHARD_NAME = re.compile(r"shard-\d+-")
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,30}$")
# Threads wait for the disk at the same time but parse one after the other: parsing holds the
# interpreter, and the screen's thread would wait for all of them.
_PARSING = threading.Lock()


def read_header(file: Path) -> dict[str, TensorRef]:
    """Return where each tensor of `file` is stored, by name and in file order.

    Raises CorruptFile for what the safetensors library refuses: a header that is too long or not
    JSON, ranges that do not fit their shape, overlap, leave gaps or leave the file. A dtype that
    the library does not know is no reason. Raises UnsupportedLayout for one rank's part of a save.
    """
    text, data_start, size = _header(file)
    with _PARSING:
        refs, metadata = _refs(file, text, data_start, size)
        if metadata and _is_part(file, metadata):
            raise UnsupportedLayout(
                f"{file}: holds one rank's part of every tensor, as HuggingFaceStorageWriter of "
                "torch.distributed.checkpoint saves it. Give the folder it is in, with the files "
                "of all ranks"
            )
        return refs


def read_part(file: Path) -> tuple[dict[str, TensorRef], dict[str, Any]]:
    """Return the tensors of a file that is one rank's part, and what it states of each, by name.

    That has the offsets of the part in the whole tensor, and is checked by the caller. Raises
    CorruptFile as `read_header` does, and for a file that states none.
    """
    text, data_start, size = _header(file)
    with _PARSING:
        refs, metadata = _refs(file, text, data_start, size)
        stated = (metadata or {}).get(SHARDING)
        if stated is None:
            raise CorruptFile(f"{file}: does not state whose part it holds, in {SHARDING}")
        try:
            return refs, dict(entries(stated))
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"{file}: its {SHARDING} is not JSON ({error})") from error


def _header(file: Path) -> tuple[str, int, int]:
    """Return the header of a file, where its data starts, and its size. Raises CorruptFile."""
    with open_regular(file) as fd:
        size = os.fstat(fd).st_size
        head = read_at(fd, 0, len(LFS_POINTER))
        if reason := not_fetched(head):
            raise CorruptFile(f"{file}: {reason}")
        if len(head) < 8:
            raise CorruptFile(f"{file}: has {size} bytes, too few for a safetensors header")
        (length,) = struct.unpack("<Q", head[:8])
        if length > MAX_HEADER:
            raise CorruptFile(
                f"{file}: the header claims {length} bytes; not a safetensors file, or damaged"
            )
        if 8 + length > size:
            raise CorruptFile(
                f"{file}: the header claims {length} bytes, the file has {size}: it was cut off, "
                "copy it again"
            )
        try:
            text = read_at(fd, 8, length).decode()
        except UnicodeDecodeError as error:
            raise CorruptFile(
                f"{file}: the header is not what safetensors writes ({error})"
            ) from error
    return text, 8 + length, size


def begins_as_header(head: bytes, size: int) -> bool:
    """Return whether a file of `size` bytes that starts with `head` can be a safetensors file."""
    if len(head) < 10 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return bool(2 <= length <= min(MAX_HEADER, size - 8))


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> FileLayout:
    """Return the layout of a safetensors file of these (name, dtype, shape), in file order.

    Raises UnsupportedLayout for a dtype that the safetensors library does not know.
    """
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    starts, data_end = [], 0
    for name, dtype, shape in tensors:
        starts.append(data_end)
        if dtype not in ITEMSIZE and dtype not in BELOW_A_BYTE:
            raise UnsupportedLayout(
                f"{name}: is of the unknown dtype {dtype}: it cannot be written"
            )
        end = data_end + prod(shape) * _bits(dtype) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [data_end, end]}
        data_end = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    fixed = ((0, struct.pack("<Q", len(text)) + text),)
    return FileLayout(start + data_end, fixed, tuple(Slot(start + offset) for offset in starts))


def _bits(dtype: str) -> int:
    """Return the bits of one element of a known dtype."""
    return BELOW_A_BYTE.get(dtype) or 8 * ITEMSIZE[dtype]


def _refs(
    file: Path, text: str, data_start: int, size: int
) -> tuple[dict[str, TensorRef], dict[str, str] | None]:
    """Return the tensors of a header, checked against each other and the size of the file.

    With them comes its metadata.

    Each entry of the header becomes a TensorRef before the next one is parsed: all of them as
    dictionaries would take some thirty times the header's bytes.
    """
    refs: dict[str, TensorRef] = {}
    metadata: dict[str, str] | None = None
    end, is_sorted = data_start, True
    try:
        for name, entry in entries(text):
            if name == METADATA and metadata is None:
                metadata = _checked_metadata(entry)
                continue
            if name in refs or name == METADATA:
                raise ValueError("a key is there twice")
            refs[name] = ref = _ref(file, name, entry, data_start)
            is_sorted = is_sorted and ref.offset == end
            end = ref.offset + ref.nbytes
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{file}: the header is not what safetensors writes ({error})") from error
    if not is_sorted:
        refs = {ref.name: ref for ref in sorted(refs.values(), key=attrgetter("offset", "nbytes"))}
        end = data_start
        for ref in refs.values():
            if ref.offset != end:
                what = "overlaps the tensor before it" if ref.offset < end else "leaves a gap"
                raise CorruptFile(f"{file}: {shown(ref.name)} at byte {ref.offset} {what}")
            end = ref.offset + ref.nbytes
    if end != size:
        cut = "it was cut off, copy it again" if size < end else "bytes are left over"
        raise CorruptFile(f"{file}: the header needs {end} bytes, the file has {size}: {cut}")
    return refs, metadata


def _checked_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("__metadata__ may only map text to text")
    return value


def _is_part(file: Path, metadata: dict[str, str]) -> bool:
    """Return whether a file's tensors are one rank's parts.

    Then the metadata state at which row and column each starts, and the file has a rank's number.
    A file of whole tensors may have the same metadata, with zeros alone.
    """
    if SHARDING not in metadata:
        return False
    if _SHARD_NAME.match(file.name):
        return True
    try:
        places = [place["saved_offsets"] for place in json.loads(metadata[SHARDING]).values()]
        return any(any(place) for place in places)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return True


def _ref(file: Path, name: str, entry: Any, data_start: int) -> TensorRef:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError):
        raise CorruptFile(f"{file}: {shown(name)} lacks dtype, shape or data_offsets") from None
    if not isinstance(dtype, str) or not _DTYPE.match(dtype):
        raise CorruptFile(f"{file}: {shown(name)} has the dtype {shown(dtype)}")
    if not _counts(shape) or len(shape) > MAX_DIMS or not _counts(offsets) or len(offsets) != 2:
        raise CorruptFile(f"{file}: {shown(name)} has the shape {shown(shape)} at {shown(offsets)}")
    start, stop = offsets
    if dtype not in ITEMSIZE:
        return _blob(file, name, dtype, tuple(shape), data_start + start, stop - start)
    nbytes = _nbytes(shape, ITEMSIZE[dtype])
    if stop - start != nbytes:
        needs = "more bytes than can be counted" if nbytes is None else f"{nbytes} bytes"
        raise CorruptFile(
            f"{file}: {shown(name)} of shape {shown(shape)} and dtype {dtype} needs {needs}, "
            f"its range has {stop - start}"
        )
    shape, strides = _laid(tuple(shape))
    return TensorRef(name, shape, sys.intern(dtype), file, data_start + start, strides)


def _blob(
    file: Path, name: str, dtype: str, shape: tuple[int, ...], offset: int, nbytes: int
) -> TensorRef:
    """Return a tensor whose elements have no offsets: below a byte each, or of an unknown dtype.

    What newer programs write is no damage; the range of such a tensor is what the header says.
    """
    bits = prod(shape) * BELOW_A_BYTE.get(dtype, 0)
    if nbytes < 0 or (dtype in BELOW_A_BYTE and bits != 8 * nbytes):
        raise CorruptFile(
            f"{file}: {shown(name)} of shape {shown(shape)} and dtype {dtype} needs "
            f"{bits} bits, its range has {nbytes} bytes"
        )
    return TensorRef(name, shape, dtype, file, offset, contiguous(shape), blob_nbytes=nbytes)


@lru_cache(maxsize=SHAPES)
def _laid(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a shape and its strides, which most tensors of a file share with others."""
    return shape, contiguous(shape)


def _nbytes(shape: list[int], itemsize: int) -> int | None:
    """Return the bytes of a tensor; None if a product overflows 64 bits, as the library checks."""
    total = itemsize
    for size in shape:
        total *= size
        if total >= 1 << 64:
            return None
    return total


def _counts(value: object) -> bool:
    """Return whether `value` is a list of non-negative integers below 2**63."""
    if not isinstance(value, list):
        return False
    for n in value:  # noqa: SIM110 -- `all` takes three times as long, and this is for every tensor
        if type(n) is not int or not 0 <= n < 1 << 63:
            return False
    return True
