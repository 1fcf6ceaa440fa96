"""What each file of a checkpoint holds: its stored tensors, and what each of them fills."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Box, Checkpoint, Rank, TensorRef


@dataclass(slots=True, eq=False)
class HeldFile:
    """A file of a checkpoint. Its tensors fold under it."""

    name: str  # its path from the checkpoint's root
    tensors: list[StoredRow] = field(default_factory=list)  # in file order
    ranks: tuple[Rank, ...] = ()  # whose tensors it holds; empty in a format without ranks
    nbytes: int = 0
    folder: str = ""  # its folder, where that tells it from the others: each has such a file


@dataclass(slots=True, eq=False)
class StoredRow:
    """One stored tensor; in torch_dist, the chunk of one that a file holds."""

    name: str  # as stored, or in torch_dist of one layer or expert of a stored stack
    ref: TensorRef
    file: HeldFile
    chunk: int | None = None  # of virtual pipeline stages, where its file holds several
    box: Box | None = None  # in the whole tensor, if it is a chunk
    whole: tuple[int, ...] = ()  # the shape of that tensor
    fills: list[str] = field(default_factory=list)  # canonical names, in model order
    padding: int = 0  # rows of padding at its end
    copy_of: TensorRef | None = None  # the stored tensor that the recipes read in its place
    use: str = ""  # what it is, if it fills nothing: unmapped, derived, or scale


@dataclass(frozen=True, slots=True, eq=False)
class HeldFiles:
    """The files of one side."""

    side: Assembled
    files: Sequence[HeldFile]
    holders: Mapping[str, StoredRow]  # the first that fills a canonical tensor


def held_files(side: Assembled) -> HeldFiles:
    """Return what the files of a side hold. Large checkpoints take long: call this in a thread."""
    files = stored_files(side)
    holders: dict[str, StoredRow] = {}
    for held in files:
        for row in held.tensors:
            for name in row.fills:
                holders.setdefault(name, row)
    return HeldFiles(side, files, holders)


def stored_files(side: Assembled) -> list[HeldFile]:
    """Return the files of a checkpoint, by name, with the tensors that they hold."""
    checkpoint = side.checkpoint
    files: dict[Path, HeldFile] = {}
    for file in checkpoint.files:
        files[file] = HeldFile(checkpoint.relative(file))
    chunked = len({(shard.rank, shard.chunk) for shard in checkpoint.shards}) > len(
        {shard.rank for shard in checkpoint.shards}
    )
    for rank, chunk, row in _stored(checkpoint, files):
        held = row.file
        held.tensors.append(row)
        held.nbytes += row.ref.nbytes
        row.chunk = chunk if chunked else None
        if checkpoint.has_ranks and rank not in held.ranks:
            held.ranks = (*held.ranks, rank)
    for held in files.values():
        held.tensors.sort(key=lambda row: (row.chunk or 0, row.ref.offset))
    _fill(side, files)
    if len(files) > 1 and len({Path(held.name).name for held in files.values()}) == 1:
        for held in files.values():
            held.folder = str(Path(held.name).parent)
    return sorted(files.values(), key=lambda held: held.name)


def _stored(
    checkpoint: Checkpoint, files: dict[Path, HeldFile]
) -> Iterator[tuple[Rank, int, StoredRow]]:
    """Yield every stored tensor with the rank and the virtual pipeline chunk whose it is."""

    def held_by(file: Path) -> HeldFile:
        held = files.get(file)
        if held is None:
            held = files[file] = HeldFile(checkpoint.relative(file))
        return held

    chunks = checkpoint.chunks
    if chunks is None:
        for shard in checkpoint.shards:
            for ref in shard.tensors.values():
                yield shard.rank, shard.chunk, StoredRow(ref.name, ref, held_by(ref.file))
        return
    for shard in checkpoint.shards:
        times = Counter(ref.name for ref in shard.tensors.values())
        for name, ref in shard.tensors.items():
            stacked = times[ref.name] > 1  # all layers have the stored name
            parts = [(part, held) for part in chunks[ref] for held in part.refs]
            for part, held in parts:
                row = StoredRow(name if stacked else held.name, held, held_by(held.file))
                if any(bounds != (0, n) for bounds, n in zip(part.box, ref.shape, strict=True)):
                    row.box, row.whole = part.box, ref.shape
                yield shard.rank, shard.chunk, row


def _fill(side: Assembled, files: dict[Path, HeldFile]) -> None:
    """Set what each stored tensor fills, from the recipes of the canonical tensors."""
    places = {file: _Places(held.tensors) for file, held in files.items()}

    def at(ref: TensorRef) -> StoredRow | None:
        place = places.get(ref.file)
        return None if place is None else place.find(ref)

    def fills(ref: TensorRef, name: str) -> StoredRow | None:
        row = at(ref)
        if row is not None and (not row.fills or row.fills[-1] != name):
            row.fills.append(name)
        return row

    for name, assembly in side.tensors.items():
        for piece in assembly.pieces:
            fills(piece.ref, name)
            for factors in piece.ref.scale.refs if piece.ref.scale is not None else ():
                if (row := at(factors)) is not None:
                    row.use = "scale"
            for copy in piece.copies:
                row = fills(copy.ref, name)
                if row is not None:
                    row.copy_of = piece.ref
        for piece in assembly.padding:
            row = fills(piece.ref, name)
            if row is not None and piece.box:
                row.padding += piece.box[0][1] - piece.box[0][0]
    _name_the_rest(side, files)


def _name_the_rest(side: Assembled, files: dict[Path, HeldFile]) -> None:
    """Say of tensors that are in no recipe what they are."""
    unmapped = set(side.unmapped)
    derived = {entry.ref.name for entry in side.derived if entry.ref is not None}
    packed: dict[str, list[str]] = {}
    for name, weight in (*side.packed.items(), *side.multiplied_out.items()):
        for part in weight.stored:
            packed.setdefault(part, []).append(name)
    for held in files.values():
        for row in held.tensors:
            if row.fills:
                continue
            name = row.ref.name
            if name in unmapped:
                row.use = "unmapped"
            elif name in derived:
                row.use = "derived"
            elif name in packed:
                row.fills = packed[name]


class _Places:
    """The tensors of a file by where they begin in it."""

    def __init__(self, rows: Sequence[StoredRow]) -> None:
        self._by_place = {(row.ref.name, row.ref.offset): row for row in rows}
        self._rows: list[StoredRow] | None = None
        self._starts: list[int] = []

    def find(self, ref: TensorRef) -> StoredRow | None:
        """Return the tensor that a ref is, or is a part of; None if it is in none of them."""
        row = self._by_place.get((ref.name, ref.first_byte))
        if row is not None:
            return row
        if self._rows is None:
            self._rows = sorted(self._by_place.values(), key=lambda row: row.ref.offset)
            self._starts = [row.ref.offset for row in self._rows]
        at = bisect_right(self._starts, ref.first_byte) - 1
        row = self._rows[at] if at >= 0 else None
        inside = row is not None and ref.first_byte < row.ref.offset + row.ref.nbytes
        return row if inside else None
