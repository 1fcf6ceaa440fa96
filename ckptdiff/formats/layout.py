"""The layout of a file to be written: bytes known in advance, and where each tensor goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the bytes of one tensor go, in bytes; they are row-major and little-endian."""

    offset: int
    checksum_at: tuple[int, ...] = ()  # where the CRC-32 of the tensor's bytes goes


@dataclass(frozen=True, slots=True)
class FileLayout:
    """One file: its size, the bytes that do not depend on tensors, and a slot for each tensor."""

    nbytes: int
    fixed: tuple[tuple[int, bytes], ...]  # (offset, bytes)
    slots: tuple[Slot, ...]

    def moved(self, by: int) -> FileLayout:
        """Return the same layout `by` bytes further on, as a part of a larger file."""
        return FileLayout(
            self.nbytes,
            tuple((offset + by, content) for offset, content in self.fixed),
            tuple(
                Slot(slot.offset + by, tuple(at + by for at in slot.checksum_at))
                for slot in self.slots
            ),
        )
