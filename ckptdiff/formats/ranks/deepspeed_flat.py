"""Put tensors together from DeepSpeed's flat partitions, as its own `zero_to_fp32` does.

Each rank has its part of the weights in flat tensors without names, in fp32. The names, shapes and
order are those of `param_shapes` in the model's file.

- ZeRO-1 and 2: the parameters of a group lie end to end, and each rank has a part of that.
- ZeRO-3: each parameter is cut in as many parts as there are ranks, padded to one size, and each
  rank has its parts end to end, in one flat tensor or several.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Chunk, TensorRef, contiguous
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile, MixedShards, UnsupportedLayout
from ckptdiff.formats import torch_zip
from ckptdiff.formats.inert import Placeholder, told
from ckptdiff.formats.tree import MAX_NAME
from ckptdiff.formats.wholes import Whole, boxes_of_range
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MASTER = "fp32_param"  # the weights themselves, beside Adam's moments
MOMENTS = ("exp_avg", "exp_avg_sq")
# Parts that tensors may be put together from: so many, and one more for so many bytes that the
# files have. Small files may not claim more.
PARTS, BYTES_PER_PART = 1 << 18, 256

Shapes = dict[str, tuple[int, ...]]


@dataclass(slots=True)
class PartsLeft:
    """How many parts may still be made; one is shared by all tensors of a checkpoint."""

    left: int

    @classmethod
    def of(cls, files: Sequence[Path]) -> PartsLeft:
        return cls(PARTS + sum(file.stat().st_size for file in files) // BYTES_PER_PART)

    def take(self, file: Path) -> None:
        self.left -= 1
        if self.left < 0:
            raise CorruptFile(f"{file}: cuts its tensors into more parts than can be right")


class Flat:
    """Flat tensors laid end to end, as if they were one."""

    def __init__(self, refs: Sequence[TensorRef], left: PartsLeft) -> None:
        """Take refs of one dimension, of one dtype."""
        self.refs = refs
        self.starts = list(accumulate((ref.shape[0] for ref in refs), initial=0))
        self.size = self.starts.pop()  # in elements
        self._left = left

    def chunks(
        self, name: str, shape: tuple[int, ...], at: int, start: int, stop: int
    ) -> Iterator[Chunk]:
        """Yield the chunks of elements `start:stop` of a tensor, which lie from element `at` on."""
        number = max(0, bisect_right(self.starts, at) - 1)
        while start < stop:
            ref = self.refs[number]
            inside = at - self.starts[number]
            count = min(stop - start, ref.shape[0] - inside)
            for box, first in boxes_of_range(shape, start, start + count):
                self._left.take(ref.file)
                sizes = tuple(end - begin for begin, end in box)
                offset = ref.offset + (inside + first - start) * ITEMSIZE[ref.dtype]
                part = TensorRef(name, sizes, ref.dtype, ref.file, offset, contiguous(sizes))
                yield Chunk(part, box)
            start, at, number = start + count, at + count, number + 1


@dataclass(slots=True)
class RankPartitions:
    """What a rank's file of optimizer states holds."""

    file: Path
    stage: int
    ranks: int  # that saved it
    # The flat tensors of each kind: one for each group of parameters.
    kinds: dict[str, list[TensorRef]] = field(default_factory=dict)
    paddings: list[list[int]] | None = None  # elements behind each parameter, by group


def shape_of(value: object, file: Path, name: str) -> tuple[int, ...]:
    """Return a shape that a file states for a parameter. Raises CorruptFile if it is none."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) > torch_zip.MAX_DIMS
        or not all(type(n) is int and 0 <= n < torch_zip.MAX_COUNT for n in value)
    ):
        raise CorruptFile(f"{file}: {shown(name)} has the shape {told(value)}")
    return tuple(value)


def shapes_of(value: object, file: Path) -> list[Shapes]:
    """Return `param_shapes` as shapes by name, for each group. Raises CorruptFile."""
    groups = value if isinstance(value, list) else [value]
    seen: set[str] = set()
    found: list[Shapes] = []
    for group in groups:
        if not isinstance(group, dict):
            raise CorruptFile(f"{file}: param_shapes is {told(value)}")
        shapes: Shapes = {}
        for name, shape in group.items():
            if not isinstance(name, str) or len(name) > MAX_NAME or name in seen:
                raise CorruptFile(
                    f"{file}: param_shapes has the name {told(name)}, or has it twice"
                )
            seen.add(name)
            shapes[name] = shape_of(shape, file, name)
        found.append(shapes)
    return found


def read_rank(file: Path) -> RankPartitions:
    """Return the flat tensors in a rank's file of optimizer states, from headers.

    Raises CorruptFile, UnreadableFile, or UnsupportedLayout if the ranks share them in another way.
    """
    tree = torch_zip.read_index(file)
    state = tree.get("optimizer_state_dict") if isinstance(tree, dict) else None
    if not isinstance(state, dict):
        raise CorruptFile(f"{file}: holds no optimizer_state_dict of DeepSpeed")
    if state.get("ds_zero_partition_groups"):
        raise UnsupportedLayout(
            f"{file}: its experts are split over other ranks than the rest. Convert it with "
            "DeepSpeed's ds_to_universal, and give the folder that it writes"
        )
    stage = _stage(state.get("zero_stage"))
    key, inner = "single_partition_of_fp32_groups", state.get("base_optimizer_state")
    if "fp32_flat_groups" in state:
        key, inner = "fp32_flat_groups", state.get("optimizer_state_dict")
        stage = 3
    found = RankPartitions(file, stage, _ranks(state.get("partition_count"), file))
    found.kinds[MASTER] = _flat_tensors(state.get(key), file, key)
    found.paddings = _paddings(state.get("param_alignment_paddings"), file)
    states = inner.get("state") if isinstance(inner, dict) else None
    for kind in MOMENTS:
        refs = _moments(states, kind, len(found.kinds[MASTER]))
        if refs is not None:
            found.kinds[kind] = refs
    return found


def _stage(value: object) -> int:
    """Return the stage of ZeRO; 1 where the optimizer states none, as the one for bf16 does."""
    if isinstance(value, Placeholder) and isinstance(value.args, tuple) and len(value.args) == 1:
        value = value.args[0]  # a member of an enum
    return value if type(value) is int else 1


def _ranks(value: object, file: Path) -> int:
    counts = value if isinstance(value, list) and value else [value]
    if not all(type(n) is int and 0 < n < torch_zip.MAX_COUNT for n in counts):
        raise CorruptFile(f"{file}: partition_count is {told(value)}")
    if len(set(counts)) > 1:
        raise UnsupportedLayout(
            f"{file}: its groups of parameters are split over different numbers of ranks, as those "
            "of experts are"
        )
    count = counts[0]
    assert type(count) is int
    return count


def _flat_tensors(value: object, file: Path, key: str) -> list[TensorRef]:
    refs = value if isinstance(value, (list, tuple)) else None
    if refs is None or not all(map(_is_flat, refs)):
        raise CorruptFile(f"{file}: {key} is no list of flat tensors")
    return [ref for ref in refs if isinstance(ref, TensorRef)]


def _is_flat(ref: object) -> bool:
    return isinstance(ref, TensorRef) and len(ref.shape) == 1 and ref.stride == (1,)


def _moments(states: object, kind: str, groups: int) -> list[TensorRef] | None:
    """Return one of Adam's moments of each group; None where the optimizer has no such state."""
    if not isinstance(states, dict):
        return None
    refs: list[TensorRef] = []
    for number in range(groups):
        state = states.get(number)
        ref = state.get(kind) if isinstance(state, dict) else None
        if not isinstance(ref, TensorRef) or not _is_flat(ref):
            return None
        refs.append(ref)
    return refs


def _paddings(value: object, file: Path) -> list[list[int]] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(group, list)
        and all(type(n) is int and 0 <= n < torch_zip.MAX_COUNT for n in group)
        for group in value
    ):
        raise CorruptFile(f"{file}: param_alignment_paddings is {told(value)}")
    return value


def check_alike(ranks: Sequence[RankPartitions]) -> None:
    """Raise MixedShards unless the ranks' files are of one kind of save, with the same groups."""
    first = ranks[0]
    for rank in ranks:
        if _kind_of(rank) != _kind_of(first):
            raise MixedShards(
                f"{rank.file}: has ZeRO-{shown(rank.stage)} of {shown(rank.ranks)} ranks in "
                f"{len(rank.kinds[MASTER])} groups, and {first.file.name} has "
                f"ZeRO-{shown(first.stage)} of {shown(first.ranks)} in "
                f"{len(first.kinds[MASTER])}: the files are of different saves"
            )


def _kind_of(rank: RankPartitions) -> tuple[object, ...]:
    masters = rank.kinds[MASTER]
    return rank.stage, rank.ranks, len(masters), {ref.dtype for ref in masters}, rank.paddings


def put_together(
    groups: Sequence[Shapes], ranks: Sequence[RankPartitions], kind: str, left: PartsLeft
) -> dict[str, Whole]:
    """Return the tensors of one kind by name, put together from the ranks' flat tensors.

    Raises CorruptFile if the flat tensors have another size than the shapes ask for, MixedShards if
    they differ in dtype, KeyError if a rank has nothing of this kind.
    """
    held = [rank.kinds[kind] for rank in ranks]
    dtypes = {ref.dtype for refs in held for ref in refs}
    if len(dtypes) > 1:
        raise MixedShards(
            f"{ranks[0].file.parent}: the ranks hold {kind} as {' and '.join(sorted(dtypes))}: the "
            "files are of different saves"
        )
    dtype = dtypes.pop() if dtypes else "F32"
    laid = _by_parameter if ranks[0].stage >= 3 else _by_group
    return {
        name: Whole(name, shape, dtype, tuple(chunks))
        for name, shape, chunks in laid(groups, ranks, held, left)
    }


Laid = tuple[str, tuple[int, ...], list[Chunk]]


def _by_group(
    groups: Sequence[Shapes],
    ranks: Sequence[RankPartitions],
    held: Sequence[list[TensorRef]],
    left: PartsLeft,
) -> Iterator[Laid]:
    """Yield the parameters of ZeRO-1 and 2: each group lies end to end, cut over the ranks."""
    paddings = ranks[0].paddings
    folder = ranks[0].file.parent
    if len(groups) != len(held[0]) or any(len(refs) != len(held[0]) for refs in held):
        raise CorruptFile(
            f"{folder}: has {len(held[0])} flat tensors of each rank for {len(groups)} groups of "
            "parameters"
        )
    if paddings is not None and len(paddings) != len(groups):
        raise CorruptFile(
            f"{folder}: has param_alignment_paddings of {len(paddings)} groups of {len(groups)}"
        )
    for number, shapes in enumerate(groups):
        flat = Flat([refs[number] for refs in held], left)
        behind = [0] * len(shapes) if paddings is None else paddings[number]
        if len(behind) != len(shapes):
            raise CorruptFile(
                f"{folder}: has {len(behind)} param_alignment_paddings for {len(shapes)} parameters"
            )
        at = 0
        places = []
        for (name, shape), padding in zip(shapes.items(), behind, strict=True):
            places.append((name, shape, at))
            at += prod(shape) + padding
        # What is behind the last one is padding, up to twice the number of ranks.
        if not _fits(at, flat.size, 2 * len(ranks)):
            raise CorruptFile(_wrong_size(folder, at, flat.size))
        for name, shape, at in places:
            if at + prod(shape) > flat.size:
                raise CorruptFile(_wrong_size(folder, at + prod(shape), flat.size))
            yield name, shape, list(flat.chunks(name, shape, at, 0, prod(shape)))


def _fits(asked: int, there: int, step: int) -> bool:
    """Return whether both sizes are the same once they are rounded up to a multiple of `step`."""
    return -(-asked // step) == -(-there // step)


def _by_parameter(
    groups: Sequence[Shapes],
    ranks: Sequence[RankPartitions],
    held: Sequence[list[TensorRef]],
    left: PartsLeft,
) -> Iterator[Laid]:
    """Yield the parameters of ZeRO-3: each is cut over the ranks."""
    flats = [Flat(refs, left) for refs in held]
    folder = ranks[0].file.parent
    asked = sum(-(-prod(shape) // len(flats)) for shapes in groups for shape in shapes.values())
    for flat, rank in zip(flats, ranks, strict=True):
        if flat.size != asked:
            raise CorruptFile(_wrong_size(folder, asked, flat.size, f" of {rank.file.name}"))
    at = 0
    for shapes in groups:
        for name, shape in shapes.items():
            count = prod(shape)
            part = -(-count // len(flats))
            chunks: list[Chunk] = []
            for flat, start in zip(flats, range(0, count, part or 1), strict=False):
                chunks += flat.chunks(name, shape, at, start, min(start + part, count))
            at += part
            yield name, shape, chunks


def _wrong_size(folder: Path, asked: int, there: int, where: str = "") -> str:
    return (
        f"{folder}: the flat tensors{where} have {shown(there)} elements, and the parameters "
        f"{shown(asked)}: the files are of different saves, or weights were moved out to a disk"
    )


def fragments(
    shapes: Mapping[str, tuple[int, ...]],
    of_ranks: Sequence[Mapping[Any, Any]],
    files: Sequence[Path],
    left: PartsLeft,
) -> Iterator[Whole]:
    """Yield the frozen parameters of ZeRO-3, of which each rank has one part.

    Raises CorruptFile if a part is missing, or has another size.
    """
    for name, shape in shapes.items():
        refs = []
        for held, file in zip(of_ranks, files, strict=True):
            ref = held.get(name)
            if not isinstance(ref, TensorRef) or not _is_flat(ref):
                raise CorruptFile(f"{file}: holds no part of the frozen {shown(name)}")
            refs.append(ref)
        count = prod(shape)
        part = -(-count // len(refs))
        if any(ref.shape[0] != part for ref in refs) or len({ref.dtype for ref in refs}) > 1:
            raise CorruptFile(
                f"{files[0].parent}: the parts of the frozen {shown(name)} are not of one size and "
                f"dtype, {part} elements each"
            )
        flat = Flat(refs, left)
        chunks = tuple(flat.chunks(name, shape, 0, 0, count))
        yield Whole(name, shape, refs[0].dtype, chunks)
