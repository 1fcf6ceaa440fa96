"""Files of ranks by hand, with chosen opcodes or JSON in the place of each part of a tensor."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

from tests.support.hostile_torch import fragment, mapping, program, tensor, torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_TENSOR = "torch.distributed.tensor"
_SHARDED = "torch.distributed._shard.sharded_tensor"


def _instance(module: str, name: str, state: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"


def _of_class(module: str, name: str, state: bytes) -> bytes:
    """Return the opcodes of a tensor of a class of its own, with this state."""
    kind = f"c{module}\n{name}\n".encode()
    build = b"ctorch._utils\n_rebuild_wrapper_subclass\n"
    return b"ctorch._tensor\n_rebuild_from_type_v2\n(" + build + kind + b")" + state + b"tR"


def rank_file(weights: bytes) -> bytes:
    """Return the file of a rank, whose state dict these opcodes push."""
    return torch_zip(program(weights))


def of_ranks(weights: bytes) -> Callable[[Path], Path]:
    """Return a maker of a save by one rank."""

    def make(folder: Path) -> Path:
        (folder / "model_world_size_1_rank_0.pt").write_bytes(rank_file(weights))
        return folder

    return make


def dtensor(**parts: bytes) -> bytes:
    """Return the opcodes of a DTensor; those of parts of it may be given."""
    sizes = fragment({"shape": (1,), "stride": (1,)})
    axis = _instance("torch.distributed._mesh_layout", "_FlatLayout", sizes)
    layout = _instance(
        "torch.distributed._mesh_layout",
        "_MeshLayout",
        mapping({"axes": parts.get("axes", b"(" + axis + b"t")}),
    )
    mesh = _instance(
        "torch.distributed.device_mesh",
        "DeviceMesh",
        mapping(
            {
                "_layout": parts.get("layout", layout),
                "_coordinate_on_dim": parts.get("at", fragment((0,))),
                "_flatten_rank_map": parts.get("ranks", fragment((0,))),
            }
        ),
    )
    split = _instance(
        f"{_TENSOR}.placement_types",
        "_StridedShard",
        mapping(
            {"dim": parts.get("dim", fragment(0)), "split_factor": parts.get("factor", fragment(1))}
        ),
    )
    meta = f"c{_TENSOR}._dtensor_spec\nTensorMeta\n".encode() + b"("
    meta += parts.get("shape", fragment((2,))) + fragment((1,)) + b"ctorch\nfloat32\nt\x81"
    spec = {
        "mesh": parts.get("mesh", mesh),
        "placements": parts.get("placements", b"(" + split + b"t"),
        "tensor_meta": parts.get("meta", meta),
        "shard_order": parts.get("order", b"N"),
    }
    fields = {
        "_local_tensor": parts.get("local", tensor()),
        "_spec": _instance(f"{_TENSOR}._dtensor_spec", "DTensorSpec", mapping(spec)),
    }
    return _of_class(_TENSOR, "DTensor", parts.get("state", b"N" + mapping(fields) + b"\x86"))


def sharded(**parts: bytes) -> bytes:
    """Return the opcodes of a ShardedTensor; those of parts of it may be given."""
    place = {
        "shard_offsets": parts.get("offsets", fragment([0])),
        "shard_sizes": parts.get("sizes", fragment([2])),
    }
    metadata = _instance(
        "torch.distributed._shard.metadata", "ShardMetadata", b"N" + mapping(place) + b"\x86"
    )
    one = mapping({"tensor": tensor(), "metadata": metadata})
    shard = _instance(f"{_SHARDED}.shard", "Shard", b"N" + one + b"\x86")
    properties = _instance(
        f"{_SHARDED}.metadata", "TensorProperties", parts.get("properties", b"(ctorch\nfloat32\nt")
    )
    about = _instance(
        f"{_SHARDED}.metadata",
        "ShardedTensorMetadata",
        mapping({"size": parts.get("size", fragment((2,))), "tensor_properties": properties}),
    )
    saved_by = mapping({"global_rank": parts.get("rank", fragment(0))})
    group = _instance(f"{_SHARDED}.api", "ProcessGroupState", saved_by)
    state = b"(" + parts.get("shards", b"](" + shard + b"e") + about + group + b"N\x89t"
    return _of_class(f"{_SHARDED}.api", "ShardedTensor", parts.get("state", state))


def _with_part(make: Callable[..., bytes], part: str, body: bytes) -> Callable[[Path], Path]:
    return of_ranks(mapping({"a": make(**{part: body})}))


_PARTS = ("axes", "layout", "at", "ranks", "dim", "factor", "shape", "mesh", "placements", "meta",
          "order", "local", "state")  # fmt: skip
_SHARDED_PARTS = ("offsets", "sizes", "properties", "size", "rank", "shards", "state")
PICKLE_PLACES: Mapping[str, Callable[[bytes], Callable[[Path], Path]]] = {
    **{f"the {part} of a DTensor": partial(_with_part, dtensor, part) for part in _PARTS},
    **{
        f"the {part} of a ShardedTensor": partial(_with_part, sharded, part)
        for part in _SHARDED_PARTS
    },
    "beside a DTensor": lambda body: of_ranks(mapping({"a": dtensor(), "b": body})),
}


def of_safetensors(info: str) -> Callable[[Path], Path]:
    """Return a maker of DCP's safetensors of one rank, which state this of their tensors."""
    header = {
        "__metadata__": {"DCP_SHARDING_INFO": info},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    text = json.dumps(header).encode()

    def make(folder: Path) -> Path:
        file = folder / "shard-00001-model-00001-of-00001.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        return folder

    return make


JSON_PLACES: Mapping[str, Callable[[str], Callable[[Path], Path]]] = {
    "what a rank states of its parts": of_safetensors,
    "what a rank states of a part": lambda v: of_safetensors(f'{{"a": {v}}}'),
    "where a rank's part begins": lambda v: of_safetensors(f'{{"a": {{"saved_offsets": {v}}}}}'),
}
