"""Write a file as torch.save does, without torch: a zip with a pickle and tensors, uncompressed.

The zip's records are those of PKWARE's APPNOTE, sections 4.3 and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptdiff.formats.layout import FileLayout, Slot
from ckptdiff.formats.pickling import Blank, Pickle

if TYPE_CHECKING:
    from pathlib import Path

_ALIGNMENT = 64  # bytes; torch aligns tensors so that files can be mapped
_LIMIT = 0xFFFF_FFFF  # sizes and offsets from here on need the fields of zip64
_DATE = 33  # 1 January 1980 as MS-DOS encodes it: the same tree gives the same bytes


@dataclass(frozen=True, slots=True)
class Data(Blank):
    """A tensor with its bytes, row-major and little-endian."""

    content: bytes


def save(tree: dict[str, Any], file: Path) -> None:
    """Write nested dicts, lists, plain values, Namespaces and `Data` so that torch.load reads it.

    Raises TypeError for any other value.
    """
    layout, tensors = lay_out(tree, file.stem)
    with file.open("wb") as out:
        for offset, content in layout.fixed:
            out.seek(offset)
            out.write(content)
        for slot, data in zip(layout.slots, tensors, strict=True):
            assert isinstance(data, Data)
            out.seek(slot.offset)
            out.write(data.content)
            for at in slot.checksum_at:
                out.seek(at)
                out.write(struct.pack("<I", zlib.crc32(data.content)))


def saved_bytes(tree: dict[str, Any], stem: str) -> bytes:
    """Return the bytes of a small file as `save` writes it; `stem` is that of its name."""
    layout, tensors = lay_out(tree, stem)
    content = bytearray(layout.nbytes)
    for offset, piece in layout.fixed:
        content[offset : offset + len(piece)] = piece
    for slot, data in zip(layout.slots, tensors, strict=True):
        assert isinstance(data, Data)
        content[slot.offset : slot.offset + len(data.content)] = data.content
        for at in slot.checksum_at:
            content[at : at + 4] = struct.pack("<I", zlib.crc32(data.content))
    return bytes(content)


def lay_out(tree: Any, stem: str = "archive") -> tuple[FileLayout, list[Blank]]:
    """Return the layout of a file that holds a tree, and its tensors in the order of the slots.

    `stem` is the folder inside the zip; torch uses the stem of the file's name. Raises TypeError
    for a value that cannot be written.
    """
    pickle = Pickle()
    content = pickle.dump(tree)
    archive = _Archive()
    archive.add(f"{stem}/data.pkl", content)
    archive.add(f"{stem}/byteorder", b"little")
    slots = [archive.leave(f"{stem}/data/{i}", t.nbytes) for i, t in enumerate(pickle.tensors)]
    archive.add(f"{stem}/version", b"3\n")
    checksums = archive.finish()
    return (
        FileLayout(
            archive.at,
            tuple((offset, bytes(content)) for offset, content in archive.fixed),
            tuple(Slot(s.offset, (*s.checksum_at, checksums[s.offset])) for s in slots),
        ),
        pickle.tensors,
    )


@dataclass(slots=True)
class _Archive:
    """The layout of a zip of uncompressed members, from front to back."""

    at: int = 0
    fixed: list[tuple[int, bytearray]] = field(default_factory=list)
    members: list[tuple[bytes, int, int, int, int]] = field(default_factory=list)

    def add(self, name: str, content: bytes) -> None:
        """Add a member whose bytes are known now."""
        self._head(name, len(content), zlib.crc32(content))
        self._put(content)

    def leave(self, name: str, size: int) -> Slot:
        """Leave room for a member whose `size` bytes are written later."""
        head = self.at
        self._head(name, size, 0)
        slot = Slot(self.at, (head + 14,))
        self.at += size
        return slot

    def finish(self) -> dict[int, int]:
        """Add the central directory; return where it holds the CRC-32 of each member.

        The key is the offset of the member's data.
        """
        start = self.at
        checksums = {}
        for name, head, data, size, checksum in self.members:
            checksums[data] = self.at + 16
            wide = [n for n in (size, size, head) if n >= _LIMIT]
            extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
            needs, small = 45 if wide else 20, min(size, _LIMIT)
            about = (needs, needs, 0, 0, 0, _DATE, checksum, small, small, len(name), len(extra))
            where = (0, 0, 0, 0, min(head, _LIMIT))
            self._put(struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *about, *where) + name + extra)
        size, count = self.at - start, len(self.members)
        if max(size, start) >= _LIMIT or count >= 0xFFFF:
            end = self.at
            directory = (44, 45, 45, 0, 0, count, count, size, start)
            self._put(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", *directory))
            self._put(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        count = min(count, 0xFFFF)
        ends = (0, 0, count, count, min(size, _LIMIT), min(start, _LIMIT), 0)
        self._put(struct.pack("<4sHHHHIIH", b"PK\5\6", *ends))
        return checksums

    def _head(self, name: str, size: int, checksum: int) -> None:
        """Append a member's local header, padded so that its data is aligned."""
        text = name.encode()
        head = self.at
        wide = struct.pack("<HHQQ", 1, 16, size, size) if size >= _LIMIT else b""
        start = head + 30 + len(text) + len(wide) + 4
        padding = -start % _ALIGNMENT
        extra = wide + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        small = min(size, _LIMIT)
        about = (45 if wide else 20, 0, 0, 0, _DATE, checksum, small, small, len(text), len(extra))
        self._put(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", *about) + text + extra)
        self.members.append((text, head, self.at, size, checksum))

    def _put(self, content: bytes) -> None:
        """Append fixed bytes, to the last ones if there is no gap between."""
        if not self.fixed or self.fixed[-1][0] + len(self.fixed[-1][1]) != self.at:
            self.fixed.append((self.at, bytearray()))
        self.fixed[-1][1].extend(content)
        self.at += len(content)
