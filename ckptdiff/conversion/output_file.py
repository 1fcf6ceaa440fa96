"""A file that a conversion writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.formats.layout import FileLayout


@dataclass(frozen=True, slots=True)
class OutputFile:
    """Its layout, and the recipe of the tensor that goes into each slot."""

    path: str  # relative to the output
    layout: FileLayout
    tensors: tuple[Assembly, ...]

    @property
    def has_checksums(self) -> bool:
        return any(slot.checksum_at for slot in self.layout.slots)
