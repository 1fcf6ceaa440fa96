"""What a DTensor in a pickle says of its place, made by hand as each version of torch writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.checkpoint import TensorRef, contiguous
from ckptdiff.errors import CkptDiffError, CorruptFile, UnsupportedLayout
from ckptdiff.formats.inert import Global, Placeholder
from ckptdiff.formats.ranks.dtensor import is_dtensor, read_dtensor
from ckptdiff.formats.torch_zip import UnsupportedTensor

FILE = Path("x.pt")


def instance(name: str, **state: Any) -> Placeholder:
    return Placeholder(Global("torch.distributed.tensor", name), (), state)


def ref(*shape: int) -> TensorRef:
    return TensorRef("", shape, "F32", FILE, 0, contiguous(shape))


def shard(dim: int) -> Placeholder:
    return instance("Shard", dim=dim)


def strided(dim: int, factor: int) -> Placeholder:
    return instance("_StridedShard", dim=dim, split_factor=factor)


def mesh_of(version: str, sizes: tuple[int, ...], at: tuple[int, ...]) -> Placeholder:
    """Return a mesh of ranks in order, as a version of torch pickles it."""
    count = torch.Size(sizes).numel()
    ranks, steps = tuple(range(count)), contiguous(sizes)
    if version == "2.3":
        return instance(
            "DeviceMesh", mesh=ref(*sizes), _flatten_mesh_list=ranks, _coordinate_on_dim=list(at)
        )
    if version == "2.10":
        layout = instance("_MeshLayout", shape=sizes, stride=steps)
        return instance(
            "DeviceMesh", _layout=layout, _rank_map=ref(count), _flatten_rank_map=ranks,
            _coordinate_on_dim=list(at),
        )  # fmt: skip
    flat = [
        instance("_FlatLayout", shape=(n,), stride=(step,))
        for n, step in zip(sizes, steps, strict=True)
    ]
    layout = instance("_MeshLayout", axes=tuple(flat))
    return instance("DeviceMesh", _layout=layout, _rank=None, _flatten_rank_map=ranks,
                    _coordinate_on_dim=at)  # fmt: skip


def dtensor(
    shape: tuple[int, ...], local: object, mesh: Placeholder, *placements: Placeholder, **spec: Any
) -> UnsupportedTensor:
    kind = Global("torch.distributed.tensor", "DTensor")
    meta = Placeholder(Global("torch", "TensorMeta"), (shape, contiguous(shape), None))
    of = instance("DTensorSpec", mesh=mesh, placements=placements, tensor_meta=meta, **spec)
    return UnsupportedTensor("DTensor", kind, (None, {"_local_tensor": local, "_spec": of}))


@pytest.mark.parametrize("version", ["2.3", "2.10", "2.13"])
@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])
def test_every_version_tells_the_place_and_the_rank(version: str, at: tuple[int, int]) -> None:
    mesh = mesh_of(version, (3, 2), at)
    leaf = dtensor((6, 4), ref(2, 2), mesh, shard(0), shard(1))
    part = read_dtensor(leaf, 6)
    (chunk,) = part.chunks
    assert chunk.box == ((2 * at[0], 2 * at[0] + 2), (2 * at[1], 2 * at[1] + 2))
    assert part.rank == 2 * at[0] + at[1]


@pytest.mark.parametrize("size", [1, 5, 7, 8, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_a_split_is_that_of_torch_chunk(size: int, ranks: int) -> None:
    chunks = torch.arange(size).chunk(ranks)
    for rank in range(ranks):
        values = chunks[rank].tolist() if rank < len(chunks) else []
        mesh = mesh_of("2.13", (ranks,), (rank,))
        part = read_dtensor(dtensor((size,), ref(len(values)), mesh, shard(0)), ranks)
        held = [n for chunk in part.chunks for n in range(*chunk.box[0])]
        assert held == values


@pytest.mark.parametrize("size", [8, 12, 13, 17])
@pytest.mark.parametrize("how", ["strided", "order"])
def test_tp_before_fsdp_along_one_dimension(size: int, how: str) -> None:
    whole = torch.arange(size)
    for fsdp in range(3):
        for tp in range(2):
            chunks = whole.chunk(2)[tp].chunk(3)
            values = chunks[fsdp].tolist() if fsdp < len(chunks) else []
            mesh = mesh_of("2.13", (3, 2), (fsdp, tp))
            if how == "strided":
                leaf = dtensor((size,), ref(len(values)), mesh, strided(0, 2), shard(0))
            else:
                order = (Placeholder(Global("t", "ShardOrderEntry"), (0, (1, 0))),)
                leaf = dtensor(
                    (size,), ref(len(values)), mesh, shard(0), shard(0), shard_order=order
                )
            part = read_dtensor(leaf, 6)
            assert [n for chunk in part.chunks for n in range(*chunk.box[0])] == values


def test_rows_that_lie_apart_are_several_chunks_of_the_part() -> None:
    mesh = mesh_of("2.13", (2,), (1,))
    part = read_dtensor(dtensor((8, 3), ref(4, 3), mesh, strided(0, 2)), 2)
    assert [chunk.box for chunk in part.chunks] == [((2, 4), (0, 3)), ((6, 8), (0, 3))]
    assert [chunk.ref.offset for chunk in part.chunks] == [0, 2 * 3 * 4]
    assert [chunk.ref.shape for chunk in part.chunks] == [(2, 3), (2, 3)]


MESH = mesh_of("2.13", (2,), (0,))
REFUSED = {
    "partial sums": (dtensor((4,), ref(4), MESH, instance("Partial")), "placed as Partial"),
    "another size": (dtensor((4,), ref(3), MESH, shard(0)), r"the rank holds \[2\] of \[4\]"),
    "no tensor": (dtensor((4,), None, MESH, shard(0)), "its part is None"),
    "quantised": (dtensor((4,), UnsupportedTensor("X tensor"), MESH, shard(0)), "is X tensor"),
    "beyond": (dtensor((4,), ref(2), MESH, shard(1)), "along dimension 1 of 1"),
    "negative": (dtensor((4,), ref(2), MESH, shard(-1)), "-1 as its dim"),
    "no mesh": (dtensor((4,), ref(2), instance("DeviceMesh"), shard(0)), "mesh's layout"),
    "two placements": (dtensor((4,), ref(2), MESH, shard(0), shard(0)), "as placements"),
    "outside": (
        dtensor((4,), ref(2), mesh_of("2.13", (2,), (2,)), shard(0)), r"at \[2\] of a mesh \[2\]",
    ),
    "many ranks": (
        dtensor((4,), ref(2), mesh_of("2.13", (1 << 20,), (0,)), shard(0)), "of more than 2 ranks",
    ),
    "odd factor": (dtensor((4,), ref(2), MESH, strided(0, 1 << 40)), "by the factor"),
    "odd order": (
        dtensor((4,), ref(2), MESH, shard(0), shard_order=((0, (3,)),)), "in the order",
    ),
    "factors": (
        dtensor((9, 9), ref(4, 4), mesh_of("2.13", (2, 1), (0, 0)), strided(0, 2), strided(1, 2)),
        "by the factor 2 on a mesh",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_contradicts_itself_is_refused(kind: str) -> None:
    leaf, words = REFUSED[kind]
    assert is_dtensor(leaf)
    with pytest.raises(CkptDiffError, match=words) as raised:
        read_dtensor(leaf, 2)
    assert raised.type in (CorruptFile, UnsupportedLayout)
