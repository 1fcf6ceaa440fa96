"""The basic types: where a stored tensor lies in a file, a rank, a shard, a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd, lcm, prod
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Whose names, layout and config a checkpoint has, in whatever format it is stored.
Convention = Literal["hf", "megatron", "meta"]
Box = tuple[tuple[int, int], ...]  # (start, stop) along every dimension
# Of a file: bytes, and in ns the last write; inode, and in ns the last change of that.
Stamp = tuple[int, int, int, int]


# Shapes whose strides are kept: those of one model are fewer, and of many chosen ones with the same
# hash each is held against all that are kept.
SHAPES = 256


@lru_cache(maxsize=SHAPES)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major tensor of this shape."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def row_major(shape: tuple[int, ...], most: int) -> Iterator[Box]:
    """Yield boxes of at most `most` elements that make up a row-major array, in memory order."""
    if prod(shape) <= most:
        if prod(shape):
            yield tuple((0, n) for n in shape)
        return
    inner = prod(shape[1:])
    if inner <= most:
        step = most // inner
        for start in range(0, shape[0], step):
            yield ((start, min(start + step, shape[0])), *((0, n) for n in shape[1:]))
        return
    for index in range(shape[0]):
        for box in row_major(shape[1:], most):
            yield ((index, index + 1), *box)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a stored tensor lies, as a header states it. Holds no data."""

    name: str  # as the file spells it
    shape: tuple[int, ...]
    dtype: str  # a key of dtypes.DTYPES, unless `blob_nbytes` is set
    file: Path
    offset: int  # of the first element, in bytes from the start of the file
    stride: tuple[int, ...]  # in elements
    scale: BlockScale | None = None
    added: LowRank | None = None  # of an adapter that is merged while the tensor is read
    # The bytes of a tensor whose elements have no offset of their own: less than a byte each, or of
    # an unknown dtype. It is read as a whole or not at all.
    blob_nbytes: int | None = None

    @property
    def nbytes(self) -> int:
        if self.blob_nbytes is not None:
            return self.blob_nbytes
        return prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def first_byte(self) -> int:
        """The offset of the byte that holds the first element, from the start of the file."""
        in_halves = self.scale is not None and self.scale.in_halves
        return self.offset // 2 if in_halves else self.offset

    def offset_of(self, index: tuple[int, ...]) -> int:
        """Return the offset of an element, in the unit of `offset`."""
        if self.blob_nbytes is not None:
            return self.offset
        elements = sum(i * step for i, step in zip(index, self.stride, strict=True))
        return self.offset + elements * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class BlockScale:
    """The factors of a quantised matrix: a value is its stored code times its block's factor."""

    ref: TensorRef  # (rows of blocks, columns of blocks)
    block: tuple[int, int]  # (rows, columns) of one block
    # Codes of E2M1, half a byte each: the first of a byte in its low half. The offset and strides
    # of the tensor count halves of bytes, so that each code has a place of its own.
    in_halves: bool = False
    words: str = ""  # how the weight is packed, if it is not DeepSeek's way
    second: TensorRef | None = None  # (1, 1): the factor of all factors
    is_divisor: bool = False  # they are divided by it, as compressed-tensors does

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """All tensors that hold factors."""
        return (self.ref,) if self.second is None else (self.ref, self.second)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a matrix: a factor times the product of two narrow matrices.

    It is tied to places in the file, not to a shape: views of the matrix that are cut out of it,
    transposed or repeated have it too.
    """

    up: tuple[Chunk, ...]  # (rows, rank), PEFT's lora_B
    down: tuple[Chunk, ...]  # (rank, columns), PEFT's lora_A
    shape: tuple[int, int]  # rows and columns of the product
    rank: int
    factor: float
    origin: int  # of the element that gets the product's first one, in bytes from the file's start
    steps: tuple[int, int]  # in the file, from row to row and from column to column, in elements
    is_rounded: bool  # to the dtype of the weight before it is added, as PEFT does for embeddings


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """A model-parallel rank: its tensor, pipeline and expert index, each from 0."""

    tp: int = 0
    pp: int = 0
    ep: int = 0


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Parallel sizes: tensor, pipeline, virtual pipeline, expert, expert tensor."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    ep: int = 1
    etp: int = 1

    # Of a stage, process r has tensor index r % TP, expert tensor index r % ETP and expert index
    # (r // ETP) % EP: RankGenerator of megatron.core.parallel_state, whose order begins with tp, cp
    # and ep. A file is named after the tensor and the expert index; each process loads its own.

    @property
    def processes(self) -> int:
        """The processes of a stage after which the pairs of indices repeat, at any CP."""
        return lcm(self.tp, self.etp * self.ep)

    def ranks(self) -> list[Rank]:
        """Return the ranks that a process loads a file of. Not every tp and ep need have one."""
        pairs = ((tp, ep) for tp in range(self.tp) for ep in range(self.ep))
        kept = [(tp, ep) for tp, ep in pairs if (tp - self.etp * ep) % self._common < self.etp]
        return [Rank(tp, pp, ep) for tp, ep in kept for pp in range(self.pp)]

    def ranks_of_first(self, processes: int) -> set[Rank]:
        """Return the ranks of the first processes of each stage."""
        few = range(min(processes, self.processes))
        pairs = {(r % self.tp, (r // self.etp) % self.ep) for r in few}
        return {Rank(tp, pp, ep) for tp, ep in pairs for pp in range(self.pp)}

    def expert_slice(self, rank: Rank) -> int:
        """Return the expert tensor index of a rank's process: of the first, if it has several."""
        processes = range(rank.tp, self.processes, self.tp)
        found = (r for r in processes if (r // self.etp) % self.ep == rank.ep)
        return next(found, rank.tp) % self.etp

    @property
    def shares_files(self) -> bool:
        """Whether processes with other slices of the same experts have one file between them."""
        return self.etp > self._common

    @property
    def _common(self) -> int:
        return gcd(self.tp, self.etp * self.ep)


@dataclass(frozen=True, slots=True)
class Shard:
    """The model tensors of one rank and one virtual pipeline chunk, by their native names."""

    rank: Rank
    chunk: int  # virtual pipeline chunk; 0 without virtual pipeline stages
    tensors: Mapping[str, TensorRef]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a checkpoint that is not a weight: an argument, optimizer or random state."""

    name: str
    kind: Literal["tensor", "value", "opaque", "derived"]
    text: str = ""  # the value, or dtype and shape; already safe to print
    ref: TensorRef | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a whole tensor, where it lies in several: chunks, or ranks' parts of an adapter."""

    ref: TensorRef
    box: Box  # in the whole tensor
    copies: tuple[TensorRef, ...] = ()  # other ranks' own of the same box: they have to be equal

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """All that hold the box."""
        return (self.ref, *self.copies)


@dataclass(frozen=True, slots=True)
class HubModel:
    """Of which model, at which commit, a snapshot in the hub's cache is."""

    id: str  # `org/name`, or a name alone
    commit: str  # the name of the snapshot's folder


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One opened checkpoint: what its headers state, no data."""

    root: Path  # the folder or file that holds the tensors (an iter_NNNNNNN folder, say)
    format: str  # the name of an entry of formats.FORMATS
    convention: Convention
    config: Mapping[str, Any] | None  # config.json, params.json or Megatron's args, as plain values
    parallelism: Parallelism
    shards: tuple[Shard, ...]
    files: tuple[Path, ...]
    iteration: int | str | None = None
    notes: tuple[str, ...] = field(default=())  # for the user, not errors
    ignored: tuple[Path, ...] = ()  # weights and indices beside, which a loader does not read
    stale_index: Path | None = None  # a loader follows it to files that are not there
    # The YAML that the config was read from, in the words of args. What it leaves out has the
    # default of a class that is not loaded, so it is not known. None: another file, or no config.
    config_file: Path | None = None
    # What Hugging Face's files beside the config state of token ids, by the name of the file.
    token_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # The chunks of each tensor, in a format that splits tensors into chunks. There the tensors in
    # `shards` are whole, not a rank's slices; where they lie is told by their chunks alone.
    chunks: Mapping[TensorRef, tuple[Chunk, ...]] | None = None
    hub: HubModel | None = None  # it lies in a cache of the hub
    # The folder of config.json and of the tokenizer, where it is not that of the weights.
    model_folder: Path | None = None
    # The SHA-256 of files when they were saved, where the program that saved them wrote it down.
    hashes: Mapping[Path, str] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] | None = None  # of the adapter in it, in PEFT's words
    # What each of the files was when it was opened, by its path.
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)

    @property
    def folder(self) -> Path:
        """The folder in which the model's config and tokenizer lie, if there are any."""
        return self.model_folder or (self.root if self.root.is_dir() else self.root.parent)

    def relative(self, file: Path) -> str:
        """Return the path of a file of the checkpoint from its root."""
        if file == self.root:
            return file.name
        return str(file.relative_to(self.root) if file.is_relative_to(self.root) else file)

    @property
    def has_ranks(self) -> bool:
        """Whether each shard is one rank's, as Megatron splits tensors over them."""
        return self.convention == "megatron" and self.chunks is None


def as_of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config.json with the fields of its `text_config`, if it has one, over its own.

    Only `tie_word_embeddings` counts where it stands outside: the class that holds both parts ties
    the head. And the mask is made by the inner class alone, so an outer `is_causal` is left out.
    """
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config
    outer = {name: value for name, value in config.items() if name != "is_causal"}
    tie = {name: value for name, value in config.items() if name == "tie_word_embeddings"}
    return {**outer, **inner, **tie}
