"""Whole tensors in chunks, under Hugging Face's names: the rules' views of them are found."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Checkpoint, Chunk, Parallelism, Rank, Shard
from ckptdiff.formats.safetensors import read_header
from ckptdiff.formats.wholes import Whole, addressed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ckptdiff.assembly.recipe import Assembly, Piece
    from ckptdiff.checkpoint import Box, TensorRef

MOE = {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_attention_heads": 2}
MOE |= {"hidden_size": 6, "num_experts": 3, "moe_intermediate_size": 4, "vocab_size": 9}
OSS = {**MOE, "model_type": "gpt_oss", "num_local_experts": 3, "intermediate_size": 4}
EXPERTS = "model.layers.0.mlp.experts"


def cut(shape: tuple[int, ...], random: Random) -> list[Box]:
    """Return boxes of a random grid over a tensor."""
    edges = [sorted({0, n, *random.choices(range(n + 1), k=2)}) for n in shape]
    return list(product(*(pairwise(along) for along in edges)))


def in_chunks(
    folder: Path, tensors: dict[str, NDArray[Any]], config: dict[str, Any], *, copies: bool = False
) -> Checkpoint:
    """Write each tensor as chunks of a random grid, a file for each chunk."""
    random = Random(7)
    wholes = {}
    for name, tensor in tensors.items():
        chunks = []
        for n, box in enumerate(cut(tensor.shape, random)):
            part = np.ascontiguousarray(tensor[tuple(slice(*bounds) for bounds in box)])
            refs = []
            for rank in range(1 + copies):
                file = folder / f"{name}-{n}-{rank}.safetensors"
                save_file({name: part}, file)
                refs.append(read_header(file)[name])
            chunks.append(Chunk(refs[0], box, tuple(refs[1:])))
        wholes[name] = Whole(name, tensor.shape, "F32", tuple(chunks))
    found, by_ref = addressed(folder, wholes)
    files = tuple(chunk.ref.file for chunks in by_ref.values() for chunk in chunks)
    shard = Shard(Rank(), 0, found)
    return Checkpoint(folder, "hf", "hf", config, Parallelism(), (shard,), files, chunks=by_ref)


def read(piece: Piece, ref: TensorRef) -> NDArray[Any]:
    raw = np.fromfile(ref.file, np.float32, offset=ref.offset)
    strides = tuple(step * 4 for step in ref.stride)
    stored = np.lib.stride_tricks.as_strided(raw, ref.shape, strides)
    return stored[tuple(slice(*bounds) for bounds in piece.of)]


def filled(assembly: Assembly, *, copy: bool = False) -> NDArray[Any]:
    """Return a tensor put together from its pieces, or from the first copy of each."""
    whole = np.full(assembly.shape, np.nan, np.float32)
    for piece in assembly.pieces:
        ref = piece.copies[0].ref if copy else piece.ref
        whole[tuple(slice(*bounds) for bounds in piece.box)] = read(piece, ref)
    return whole


def numbers(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


@pytest.mark.parametrize("copies", [False, True])
def test_experts_in_one_tensor_are_found_in_its_chunks(tmp_path: Path, copies: bool) -> None:
    both, down = numbers(3, 8, 6), numbers(3, 6, 4)
    stored = {f"{EXPERTS}.gate_up_proj": both, f"{EXPERTS}.down_proj": down}
    side = assemble(in_chunks(tmp_path, stored, MOE, copies=copies))
    assert not side.errors
    for expert in range(3):
        for name, wanted in (
            ("gate_proj", both[expert, :4]),
            ("up_proj", both[expert, 4:]),
            ("down_proj", down[expert]),
        ):
            found = side.tensors[f"{EXPERTS}.{expert}.{name}.weight"]
            np.testing.assert_array_equal(filled(found), wanted)
            if copies:
                np.testing.assert_array_equal(filled(found, copy=True), wanted)


def test_rows_that_alternate_and_lie_transposed_are_found(tmp_path: Path) -> None:
    both = numbers(3, 6, 8)  # (experts, in, gate and up by turns)
    side = assemble(in_chunks(tmp_path, {f"{EXPERTS}.gate_up_proj": both}, OSS))
    assert not side.errors
    found = [tensor for name, tensor in side.tensors.items() if ".experts." in name]
    wanted = [both[e, :, part::2].T for e in range(3) for part in range(2)]
    assert len(found) == len(wanted)
    for tensor in found:
        assert any(np.array_equal(filled(tensor), one) for one in wanted)


def test_a_chunk_that_is_not_there_is_an_error_of_its_tensor_alone(tmp_path: Path) -> None:
    stored = {"model.norm.weight": numbers(6), "lm_head.weight": numbers(9, 6)}
    checkpoint = in_chunks(tmp_path, stored, MOE)
    head = checkpoint.shards[0].tensors["lm_head.weight"]
    assert checkpoint.chunks is not None
    chunks = {ref: held[1:] if ref == head else held for ref, held in checkpoint.chunks.items()}
    holed = Checkpoint(
        tmp_path, "hf", "hf", MOE, Parallelism(), checkpoint.shards, checkpoint.files, chunks=chunks
    )
    side = assemble(holed)
    assert list(side.tensors) == ["model.norm.weight"]
    assert "of 54 elements" in side.errors["lm_head.weight"].text
