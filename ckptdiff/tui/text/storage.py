"""Where tensors and their elements are stored, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.assembly.views import place_of
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Box, Checkpoint, Rank
    from ckptdiff.tui.model.comparison import Comparison


@dataclass(frozen=True, slots=True)
class StoredSide:
    """A tensor on one side of the shard map."""

    letter: str  # A or B
    assembled: Assembled
    assembly: Assembly | None  # None: this side lacks it
    neighbours: tuple[Assembly, ...] = ()  # of the same layer: they may be in the same shards
    alone: bool = False  # only one checkpoint is open
    absent: str = ""  # why there is no assembly, in words; "": it is nowhere

    @property
    def why_absent(self) -> str:
        return self.absent or f"not in {self.letter}"

    @property
    def label(self) -> str:
        return " " if self.alone else self.letter


def sides_of(session: Comparison, name: str) -> list[StoredSide]:
    """Return a tensor on each open side, with the tensors of the same layer."""
    layer = session.inventory.layer_of.get(name)
    sides = []
    for letter, assembled in (("A", session.a), ("B", session.b)):
        if assembled is None:
            continue
        tensors = assembled.tensors
        neighbours = [
            tensors[other] for other in (layer.names if layer else ()) if other in tensors
        ]
        sides.append(
            StoredSide(
                letter,
                assembled,
                tensors.get(name),
                tuple(neighbours),
                alone=session.browsing,
                absent=absent_words(assembled, name),
            )
        )
    return sides


def absent_words(side: Assembled, name: str) -> str:
    """Return why a side that has a tensor of this name has no recipe for it; "" if it has none."""
    error = side.errors.get(name)
    if error is None:
        return ""
    if error.kind != "packed":
        return "cannot be read"
    parts = ", ".join(part.rpartition(".")[2] for part in side.packed[name].parts)
    return f"packed as {side.packed[name].text}; stored as {printable(parts)}"


def relative(file: Path, checkpoint: Checkpoint) -> str:
    """Return a path relative to the checkpoint's folder, safe to print."""
    inside = file.is_relative_to(checkpoint.root) and file != checkpoint.root
    return printable(str(file.relative_to(checkpoint.root)) if inside else file.name)


def axis_word(axis: int, dimensions: int) -> str:
    """Return what the indices of a dimension are called."""
    if dimensions == 1:
        return "elements"
    return {1: "columns", 2: "rows"}.get(dimensions - axis, f"dim {axis}")


def box_text(box: Box, shape: tuple[int, ...]) -> str:
    """Return a box as `rows 0:8, columns 4:6`; dimensions that it fills are left out."""
    parts = [
        f"{axis_word(axis, len(box))} {start}:{stop}"
        for axis, (start, stop) in enumerate(box)
        if (start, stop) != (0, shape[axis])
    ]
    return ", ".join(parts) or "all of it"


def rank_text(rank: Rank, checkpoint: Checkpoint) -> str:
    """Return a rank by the parallel sizes above 1: `tp 1 pp 0`, or with TP alone `rank 1`."""
    sizes = checkpoint.parallelism
    used = [(word, getattr(rank, word)) for word in ("tp", "pp", "ep") if getattr(sizes, word) > 1]
    if not used or [word for word, _ in used] == ["tp"]:
        return f"rank {rank.tp}"
    return " ".join(f"{word} {number}" for word, number in used)


def files_text(names: Sequence[str]) -> str:
    """Return many file names in short, such as `mp_rank_00..03`."""
    names = sorted(set(names))
    if len(names) == 1:
        return names[0]
    folders = sorted({name.split("/")[0] for name in names})
    if len(folders) == 1:
        return f"{len(names)} files in {folders[0]}" if "/" in names[0] else f"{len(names)} files"
    if not all("/" in name for name in names):
        return f"{len(names)} files"
    first, last = folders[0], folders[-1]
    common = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    return f"{first}..{last[len(first[:common].rstrip('0123456789')) :]}"


def place_parts(side: StoredSide, index: tuple[int, ...]) -> tuple[str, ...]:
    """Return the file, the stored tensor's name and index, and the byte of one element."""
    if side.assembly is None:
        return (side.why_absent,)
    place = place_of(side.assembly, index) if len(index) == len(side.assembly.shape) else None
    if place is None:
        return (f"{side.letter} has no such element",)
    ref = place.piece.ref
    file = relative(ref.file, side.assembled.checkpoint)
    return file, f"{printable(ref.name)}{list(place.index)}", f"byte {place.offset}"
