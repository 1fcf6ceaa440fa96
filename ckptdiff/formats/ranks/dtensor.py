"""A DTensor in a pickle: one rank's part of a tensor, placed on a mesh of ranks.

A mesh has one dimension or several, and for each a placement says what its ranks do with the
tensor: `Shard(dim)` splits, `Replicate` repeats. Source: torch.distributed.tensor.placement_types
and ._utils of torch 2.3 to 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Chunk, TensorRef
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.formats.inert import Global, Placeholder, told
from ckptdiff.formats.ranks.parts import Part, part_in_words, rank_of, sizes_of
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptdiff.checkpoint import Box
    from ckptdiff.formats.torch_zip import UnsupportedTensor

    Ranges = list[tuple[int, int]]

MAX_MESH_DIMS = 8


def is_dtensor(leaf: UnsupportedTensor) -> bool:
    """Return whether a tensor in a pickle is a DTensor; its class was moved between versions."""
    kind = leaf.kind
    return (
        isinstance(kind, Global)
        and kind.name == "DTensor"
        and kind.module.startswith("torch.distributed.")
    )


def read_dtensor(leaf: UnsupportedTensor, ranks: int) -> Part:
    """Return the part of a tensor that a DTensor of one of `ranks` ranks is.

    Raises CorruptFile if it contradicts itself, UnsupportedLayout for what is no part of a tensor.
    """
    outer = leaf.state[1] if isinstance(leaf.state, tuple) and len(leaf.state) == 2 else leaf.state
    fields = outer if isinstance(outer, dict) else {}
    spec = _fields(fields.get("_spec"), "DTensorSpec")
    local = fields.get("_local_tensor")
    if not isinstance(local, TensorRef):
        raise UnsupportedLayout(f"its part is {part_in_words(local)}, which cannot be compared")
    mesh = _fields(spec.get("mesh"), "DeviceMesh")
    sizes, steps = _mesh_layout(mesh)
    if prod(sizes) > ranks:
        raise CorruptFile(f"it lies on a mesh {shown(list(sizes))}, of more than {ranks} ranks")
    at = sizes_of(mesh.get("_coordinate_on_dim"))
    if len(at) != len(sizes) or any(n >= size for n, size in zip(at, sizes, strict=True)):
        raise CorruptFile(f"its rank is at {shown(list(at))} of a mesh {shown(list(sizes))}")
    meta = spec.get("tensor_meta")
    shape = sizes_of(meta.args[0] if isinstance(meta, Placeholder) and meta.args else None)  # type: ignore[index]
    placements = _placements(spec, len(sizes))
    ranges = _held(shape, local.shape, sizes, at, placements, _order(spec))
    held = tuple(map(_size, ranges))
    if held != local.shape:
        raise CorruptFile(
            f"by its placements the rank holds {shown(list(held))} of {shown(list(shape))}, and "
            f"its part is {shown(list(local.shape))}"
        )
    words = ", ".join(map(_words, placements))
    split = f", {words} on a mesh {'x'.join(map(str, sizes))}"
    return Part(shape, local.dtype, _chunks(local, ranges), split, _rank(mesh, steps, at))


def _fields(value: object, kind: str) -> Mapping[Any, Any]:
    if isinstance(value, Placeholder) and isinstance(value.state, dict):
        return value.state
    raise CorruptFile(f"it has {told(value)} in the place of a {kind}")


def _mesh_layout(mesh: Mapping[Any, Any]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the sizes of a mesh, and by how much a step along each moves in its list of ranks.

    None for steps that are no single numbers: dimensions that were joined.
    """
    ranks = mesh.get("mesh")
    if isinstance(ranks, TensorRef):  # up to torch 2.9
        sizes = _few(ranks.shape)
        return sizes, tuple(prod(sizes[n + 1 :]) for n in range(len(sizes)))
    layout = _fields(mesh.get("_layout"), "mesh's layout")
    axes = layout.get("axes")
    if isinstance(axes, tuple):  # from torch 2.13 on
        of_axes = [_fields(axis, "mesh's dimension") for axis in axes[: MAX_MESH_DIMS + 1]]
        shapes: Any = tuple(axis.get("shape") for axis in of_axes)
        strides: Any = tuple(axis.get("stride") for axis in of_axes)
    else:
        shapes, strides = layout.get("shape"), layout.get("stride")
        if isinstance(shapes, int):
            shapes, strides = (shapes,), (strides,)
    if not isinstance(shapes, tuple) or not isinstance(strides, tuple):
        raise CorruptFile(f"its mesh has the shape {told(shapes)}")
    sizes = _few(prod(_flat(shape)) for shape in shapes)
    steps = [_flat(stride) for stride in strides]
    if len(steps) != len(sizes) or any(len(step) > 1 for step in steps):
        return sizes, None
    return sizes, tuple(step[0] if step else 0 for step in steps)


def _flat(value: object) -> tuple[int, ...]:
    return sizes_of(value if isinstance(value, (tuple, list)) else (value,))


def _few(sizes: Iterable[int]) -> tuple[int, ...]:
    found = tuple(sizes)
    if not 0 < len(found) <= MAX_MESH_DIMS:
        raise CorruptFile(f"its mesh has {len(found)} dimensions")
    return found


def _rank(
    mesh: Mapping[Any, Any], steps: tuple[int, ...] | None, at: tuple[int, ...]
) -> int | None:
    """Return the number of the rank that saved this; None if that is not stated."""
    rank = rank_of(mesh.get("_rank"))
    if rank is not None:
        return rank
    ranks = mesh.get("_flatten_mesh_list", mesh.get("_flatten_rank_map"))
    if steps is None or not isinstance(ranks, (tuple, list)):
        return None
    place = sum(n * step for n, step in zip(at, steps, strict=True))
    return rank_of(ranks[place]) if place < len(ranks) else None


def _placements(spec: Mapping[Any, Any], dims: int) -> tuple[Placeholder, ...]:
    found = spec.get("placements")
    if not isinstance(found, (tuple, list)) or len(found) != dims:
        raise CorruptFile(f"it has {told(found)} as placements on a mesh of {dims} dimensions")
    for placement in found:
        if not isinstance(placement, Placeholder) or not isinstance(placement.what, Global):
            raise CorruptFile(f"it has the placement {told(placement)}")
        if placement.what.name not in ("Shard", "_StridedShard", "Replicate"):
            raise UnsupportedLayout(
                f"it is placed as {placement.what.name}: what the rank holds is no part of the "
                "tensor's values"
            )
    return tuple(found)


def _order(spec: Mapping[Any, Any]) -> dict[int, tuple[int, ...]]:
    """Return, for dimensions of the tensor that state it, in which order the mesh splits them."""
    entries = spec.get("shard_order")
    order = {}
    for entry in entries if isinstance(entries, tuple) else ():
        dim, mesh_dims = entry.args if isinstance(entry, Placeholder) else entry  # type: ignore[misc]
        (dim,) = sizes_of((dim,))
        order[dim] = sizes_of(mesh_dims)
    return order


def _held(
    shape: tuple[int, ...],
    local: tuple[int, ...],
    mesh: tuple[int, ...],
    at: tuple[int, ...],
    placements: tuple[Placeholder, ...],
    order: Mapping[int, tuple[int, ...]],
) -> list[Ranges]:
    """Return, along each dimension of a tensor, which ranges the rank holds, one after another.

    `_StridedShard` says that the mesh dimensions behind it split first. As it is defined, in
    groups, it says the same only where they split evenly. Where the rank's part, of the shape
    `local`, is not of that size, it was split in that order.
    """
    splits: dict[int, list[_Split]] = {}
    pieces = 1  # of the part, at most
    for mesh_dim, placement in enumerate(placements):
        what = placement.what.name  # type: ignore[attr-defined]
        if what == "Replicate":
            continue
        groups = _number(placement, "split_factor") if what == "_StridedShard" else 1
        pieces *= groups
        if not 0 < pieces <= prod(mesh):
            raise CorruptFile(f"it is split by the factor {groups} on a mesh {shown(list(mesh))}")
        split = _Split(mesh_dim, mesh[mesh_dim], at[mesh_dim], groups)
        splits.setdefault(_number(placement, "dim"), []).append(split)
    ranges: list[Ranges] = [[(0, size)] if size else [] for size in shape]
    for dim, found in splits.items():
        if dim >= min(len(shape), len(local)):
            raise CorruptFile(f"it is split along dimension {dim} of {len(shape)}")
        if dim in order:
            by_mesh_dim = {split.mesh_dim: split for split in found}
            if sorted(order[dim]) != sorted(by_mesh_dim):
                raise CorruptFile(f"dimension {dim} is split in the order {list(order[dim])}")
            found = [by_mesh_dim[mesh_dim] for mesh_dim in order[dim]]
        ranges[dim] = _along(shape[dim], found)
        if _size(ranges[dim]) != local[dim] and any(split.groups > 1 for split in found):
            ranges[dim] = _along(shape[dim], [replace(split, groups=1) for split in found[::-1]])
    return ranges


@dataclass(frozen=True, slots=True)
class _Split:
    """How one dimension of a mesh splits one of the tensor, and which part the rank has."""

    mesh_dim: int
    parts: int
    which: int
    groups: int  # that are split each by itself


def _along(size: int, splits: Sequence[_Split]) -> Ranges:
    """Return which ranges of a dimension a rank holds after all splits, in their order."""
    ranges: Ranges = [(0, size)] if size else []
    for split in splits:
        ranges = [
            piece
            for group in range(split.groups)
            for piece in _cut(_cut(ranges, split.groups, group), split.parts, split.which)
        ]
    return _merged(ranges)


def _size(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _words(placement: Placeholder) -> str:
    """Return a placement as torch prints it."""
    name: str = placement.what.name  # type: ignore[attr-defined]
    return name if name == "Replicate" else f"{name}({_number(placement, 'dim')})"


def _number(placement: Placeholder, field: str) -> int:
    value = placement.state.get(field) if isinstance(placement.state, dict) else None
    if type(value) is not int or value < 0:
        raise CorruptFile(f"it has a placement with {told(value)} as its {field}")
    return value


def _cut(ranges: Ranges, parts: int, which: int) -> Ranges:
    """Return one of the parts into which torch.chunk splits what the ranges hold.

    All have the same size, rounded up, but for the last, which are smaller or empty.
    """
    size = -(-_size(ranges) // parts)
    skip, take = size * which, size
    found = []
    for start, stop in ranges:
        first = start + skip
        last = min(stop, first + take)
        if first < last:
            found.append((first, last))
            take -= last - first
        skip = max(0, skip - (stop - start))
    return found


def _merged(ranges: Ranges) -> Ranges:
    found: Ranges = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def _chunks(local: TensorRef, ranges: list[Ranges]) -> tuple[Chunk, ...]:
    """Return where each box of the whole tensor lies in the part of a rank."""
    places = []
    for dim in ranges:
        at, found = 0, []
        for start, stop in dim:
            found.append((at, (start, stop)))
            at += stop - start
        places.append(found)
    chunks = []
    for combined in product(*places):
        box: Box = tuple(bounds for _, bounds in combined)
        offset = sum(at * step for (at, _), step in zip(combined, local.stride, strict=True))
        ref = replace(
            local,
            shape=tuple(stop - start for start, stop in box),
            offset=local.offset + offset * ITEMSIZE[local.dtype],
        )
        chunks.append(Chunk(ref, box))
    return tuple(chunks)
