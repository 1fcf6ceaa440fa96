"""A file that a conversion writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.formats.layout import FileLayout


@dataclass(frozen=True, slots=True)
class OutputFile:
    """The byte layout of a file, and the recipe of the tensor in each of its slots."""

    path: str  # relative to the output folder
    layout: FileLayout
    tensors: tuple[Assembly, ...]

    @property
    def has_checksums(self) -> bool:
        """Whether the format stores a CRC-32 of each tensor."""
        return any(slot.checksum_at for slot in self.layout.slots)
