"""A ShardedTensor in a pickle: the parts of a tensor that one rank of FSDP1 holds.

Source: torch.distributed._shard.sharded_tensor, of torch 2.3 to 2.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Chunk, TensorRef
from ckptdiff.dtypes import BY_TORCH
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.formats.dcp import box_of
from ckptdiff.formats.inert import Global, Placeholder, told
from ckptdiff.formats.ranks.parts import Part, part_in_words, rank_of, sizes_of
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.formats.torch_zip import UnsupportedTensor

MAX_SHARDS = 1 << 10  # of one rank; FSDP has one or none


def is_sharded(leaf: UnsupportedTensor) -> bool:
    """Return whether a tensor in a pickle is a ShardedTensor."""
    kind = leaf.kind
    return (
        isinstance(kind, Global)
        and kind.name == "ShardedTensor"
        and kind.module.startswith("torch.distributed.")
    )


def read_sharded(leaf: UnsupportedTensor) -> Part:
    """Return the parts of a tensor that a ShardedTensor holds.

    Raises CorruptFile if it contradicts itself.
    """
    state: Any = leaf.state
    shards, metadata, group, *_ = state
    stated = _fields(metadata)
    size = stated.get("size")
    shape = sizes_of(size.args[0] if isinstance(size, Placeholder) else size)  # type: ignore[index]
    dtype = _dtype(stated.get("tensor_properties"))
    chunks = []
    if not isinstance(shards, list) or len(shards) > MAX_SHARDS:
        raise CorruptFile(f"its parts are {told(shards)}")
    for shard in shards:
        fields = _fields(shard)
        place = _fields(fields.get("metadata"))
        offsets, sizes = sizes_of(place.get("shard_offsets")), sizes_of(place.get("shard_sizes"))
        tensor = fields.get("tensor")
        if not isinstance(tensor, TensorRef):
            raise UnsupportedLayout(
                f"its part is {part_in_words(tensor)}, which cannot be compared"
            )
        if (tensor.shape, tensor.dtype) != (sizes, dtype) or not len(offsets) == len(sizes) == len(
            shape
        ):
            raise CorruptFile(
                f"its part {tensor.dtype} {shown(list(tensor.shape))} is to be {dtype} "
                f"{shown(list(sizes))} at {shown(list(offsets))} of {shown(list(shape))}"
            )
        if any(start + n > whole for start, n, whole in zip(offsets, sizes, shape, strict=True)):
            raise CorruptFile(
                f"its part {shown(list(sizes))} at {shown(list(offsets))} leaves the tensor "
                f"{shown(list(shape))}"
            )
        if 0 not in sizes:
            chunks.append(Chunk(tensor, box_of(offsets, sizes)))
    rank = rank_of(_fields(group).get("global_rank"))
    return Part(shape, dtype, tuple(chunks), ", sharded", rank)


def _dtype(properties: Any) -> str:
    """Return the dtype that the metadata states, as safetensors names it."""
    state = properties.state
    dtype = state.get("dtype") if isinstance(state, dict) else state[0]
    return BY_TORCH.get(dtype.name, "") if isinstance(dtype, Global) else ""


def _fields(value: object) -> Mapping[Any, Any]:
    """Return the fields of an object; one with slots has them behind its other state."""
    state = value.state if isinstance(value, Placeholder) else None
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1]
    if not isinstance(state, dict):
        raise CorruptFile(f"it has {told(value)} where its fields should be")
    return state
