"""Read stored tensors into torch from mapped files, a few at a time."""

from __future__ import annotations

import copy
import mmap
import os
from math import prod
from typing import TYPE_CHECKING

import torch

from ckptdiff.dtypes import DTYPES, FLOATS, ITEMSIZE
from ckptdiff.errors import UNMAPPABLE, CorruptFile, UnreadableFile, UnsupportedLayout

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.forward.holdings import HeldTensor

# The torch dtype of each stored floating-point dtype.
STORED: dict[str, torch.dtype] = {word: getattr(torch, DTYPES[word].torch) for word in FLOATS}


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element
MOST_KEPT = 1 << 30  # bytes of a step's experts that are kept on a CPU
_PART_KEPT = 8  # of a GPU's free memory, one part in so many


class Reader:
    """Reads one side's tensors, in the dtype that is computed in, and notes which it read.

    Whole tensors are kept until `forget`, so that several evaluations of a step read them once. Of
    experts, which may be larger than memory, no more are kept than there is room for. What the
    `twin`, the other side's reader, keeps of equal bytes is not converted a second time.
    """

    twin: Reader | None = None

    def __init__(self, dtype: torch.dtype, device: torch.device, room: int | None = None) -> None:
        """Make a reader that keeps at most `room` bytes of experts; None: a part of the memory."""
        self.dtype = dtype
        self.device = device
        self.cast_dtype: torch.dtype | None = (
            None  # weights are cast to it first; None: they are not
        )
        self.reads: dict[str, str] = {}  # stored name to dtype, since the last `forget`
        self._kept: dict[tuple[HeldTensor, torch.dtype | None], Tensor] = {}
        self._room = self._left = (
            _room(device) if room is None else room
        )  # bytes for experts: all, and what is left
        self._mapped: dict[Path, mmap.mmap] = {}

    def tensor(self, held: HeldTensor) -> Tensor:
        """Return a whole tensor. Raises CorruptFile, UnreadableFile or UnsupportedLayout."""
        self.reads[held.name] = held.dtype
        key = (held, self.cast_dtype)
        if key not in self._kept:
            self._kept[key] = self._shared_or_converted(held)
        return self._kept[key]

    def expert(self, held: HeldTensor) -> Tensor:
        """Return a whole tensor of an expert, kept if there is room. Raises as `tensor`."""
        self.reads[held.name] = held.dtype
        key = (held, self.cast_dtype)
        if key in self._kept:
            return self._kept[key]
        made = self._shared_or_converted(held)
        if made.nbytes <= self._left:
            self._left -= made.nbytes
            self._kept[key] = made
        return made

    def rows(self, held: HeldTensor, rows: Tensor | slice) -> Tensor:
        """Return some rows of a matrix, (rows, columns), without keeping them.

        Raises CorruptFile, UnreadableFile or UnsupportedLayout.
        """
        chosen = rows if isinstance(rows, slice) else rows.cpu()
        return self._converted(self._stored(held)[chosen], held)

    def wide_tensor(self, held: HeldTensor) -> Tensor:
        """Return a whole tensor, in float32 or float64, without keeping it. Raises as `tensor`."""
        wider = self.dtype if self.dtype == torch.float64 else torch.float32
        return self._converted(self._stored(held), held, wider)

    def is_same(self, one: HeldTensor, other: HeldTensor) -> bool:
        """Return whether two small tensors are stored as equal bytes."""
        return _is_alike(one, other) and _has_same_bytes(self._stored(one), self._stored(other))

    def rows_like(
        self, held: HeldTensor, rows: slice, other: HeldTensor, other_rows: slice, made: Tensor
    ) -> Tensor:
        """Return some rows of a matrix: `made`, the other's rows, if they are stored alike.

        Raises as `tensor`.
        """
        mine = self._stored(held)[rows]
        if held.dtype == other.dtype and mine.shape == made.shape:
            self.reads[held.name] = held.dtype
            if _has_same_bytes(mine, self._stored(other)[other_rows]):
                return made
        return self._converted(mine, held)

    def forget(self) -> None:
        """Drop the tensors that are kept, and the notes of what was read."""
        self.reads.clear()
        self._kept.clear()
        self._left = self._room

    def casting(self, dtype: torch.dtype | None) -> Reader:
        """Return a reader of the same files that casts weights to a dtype first, or to none."""
        reader = copy.copy(self)
        reader.cast_dtype = dtype
        reader._left = 0  # the room is the first reader's
        return reader

    def _shared_or_converted(self, held: HeldTensor) -> Tensor:
        """Return a whole tensor: the twin's, if it keeps one that is stored as equal bytes."""
        stored = self._stored(held)
        for (other, cast), tensor in self.twin._kept.items() if self.twin is not None else ():
            if (
                cast == self.cast_dtype
                and _is_alike(held, other)
                and _has_same_bytes(stored, self._stored(other))
            ):
                return tensor
        return self._converted(stored, held)

    def _converted(
        self, stored: Tensor, held: HeldTensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        self.reads[held.name] = held.dtype
        stored = self._moved(stored)
        if self.cast_dtype is not None:
            stored = stored.to(self.cast_dtype)
        return stored.to(dtype or self.dtype)

    def _moved(self, stored: Tensor) -> Tensor:
        """Return a tensor as stored, on the device; to a GPU from pinned memory, not waited for."""
        if self.device.type != "cuda":
            return stored.to(self.device)
        return stored.contiguous().pin_memory().to(self.device, non_blocking=True)

    def _stored(self, held: HeldTensor) -> Tensor:
        """Return a tensor as stored; if it is one chunk, a view of the mapped file."""
        if held.dtype not in STORED:
            raise UnsupportedLayout(f"{held.name}: {held.dtype} is no dtype to compute with")
        if len(held.chunks) == 1 and held.chunks[0].ref.shape == held.shape:
            return self._view(held.chunks[0].ref)
        whole = torch.empty(held.shape, dtype=STORED[held.dtype])
        for chunk in held.chunks:
            box = tuple(slice(start, stop) for start, stop in chunk.box)
            whole[box] = self._view(chunk.ref)
        return whole

    def _view(self, ref: TensorRef) -> Tensor:
        size = ITEMSIZE[ref.dtype]
        span = 1 + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
        if prod(ref.shape) == 0:
            return torch.empty(ref.shape, dtype=STORED[ref.dtype])
        content, offset = self._content(ref, span * size)
        flat = torch.frombuffer(content, dtype=STORED[ref.dtype], count=span, offset=offset)
        view = flat.as_strided(ref.shape, ref.stride)
        if ref.scale is None:
            return view
        factors = self._view(ref.scale.ref).float()
        for dim, block in enumerate(ref.scale.block):
            factors = factors.repeat_interleave(block, dim)
        return view.float() * factors[: ref.shape[0], : ref.shape[1]]

    def _content(self, ref: TensorRef, nbytes: int) -> tuple[mmap.mmap | bytearray, int]:
        """Return the mapped file and the offset of a tensor of `nbytes` bytes in it.

        Where the file system cannot map files, it is the bytes of the tensor alone, read.
        """
        mapped = self._map(ref.file)
        if mapped is None:
            content = bytearray(nbytes)
            with ref.file.open("rb") as file:
                file.seek(ref.offset)
                size = ref.offset + file.readinto(content)
        else:
            size = len(mapped)
        if ref.offset + nbytes > size:
            raise CorruptFile(
                f"{ref.file}: {ref.name} ends at byte {ref.offset + nbytes}, "
                f"the file at {size}; it was cut off since it was opened"
            )
        return (content, 0) if mapped is None else (mapped, ref.offset)

    def _map(self, file: Path) -> mmap.mmap | None:
        if file not in self._mapped:
            try:
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    # A private mapping: torch wants memory that can be written.
                    self._mapped[file] = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
                finally:
                    os.close(fd)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in UNMAPPABLE:
                    return None
                raise UnreadableFile(f"{file}: cannot be read ({error})") from error
        return self._mapped[file]


def twin_readers(
    dtype: torch.dtype, device: torch.device, room: int | None = None
) -> tuple[Reader, Reader]:
    """Return readers of A and of B, of which B's takes from A's what both sides store alike."""
    a, b = Reader(dtype, device, room), Reader(dtype, device, room)
    b.twin = a
    return a, b


def _is_alike(one: HeldTensor, other: HeldTensor) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def _has_same_bytes(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape and dtype have the same bits, zeros' signs too."""
    if a.dtype.itemsize != b.dtype.itemsize:
        return False
    bits = _BITS[a.dtype.itemsize]
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return MOST_KEPT
    free, _ = torch.cuda.mem_get_info(device)
    return free // _PART_KEPT
