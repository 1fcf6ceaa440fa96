"""How a batch is cut into chunks, and where a sample of positions may not show a difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ckptdiff.forward.batch import PackedChunk, Streams, width_of
from ckptdiff.forward.holdings import HeldTensor
from ckptdiff.forward.plan import CHUNK_BYTES, Section, chunk_tokens
from ckptdiff.forward.streams import _is_hidden


def section(features: int, name: str = "mlp.up_proj.weight") -> Section:
    ranks = ({name: HeldTensor(name, (features, 8), "F32", ())},)
    return Section("layer", 0, ranks, ranks)


@pytest.mark.parametrize(
    ("name", "times"), [("mlp.up_proj.weight", 1), ("mlp.experts.3.up.weight", 4)]
)
def test_a_wide_mlp_is_computed_for_fewer_tokens(name: str, times: int) -> None:
    wide = 1 << 16
    most, small = (
        chunk_tokens(width_of(section(features, name), 4), 4, "cpu") for features in (wide, 64)
    )
    assert most == CHUNK_BYTES["cpu"] // (4 * 4 * times * wide) < small


def test_pieces_are_whole_sequences_and_what_is_one_tensor_stays_one() -> None:
    one, other = torch.arange(9.0)[:, None], torch.zeros(9, 1)
    chunk = PackedChunk(5, (2, 3, 4), Streams({"x": other}, {"x": one}, {"x": one}))
    pieces = list(chunk.pieces(5))
    assert [(piece.first, piece.lengths) for piece in pieces] == [(5, (2, 3)), (7, (4,))]
    assert [piece.values.b["x"].flatten().tolist() for piece in pieces] == [
        [0.0, 1.0, 2.0, 3.0, 4.0],
        [5.0, 6.0, 7.0, 8.0],
    ]
    assert all(piece.values.f["x"] is piece.values.b["x"] for piece in pieces)
    assert all(piece.values.a["x"] is not piece.values.b["x"] for piece in pieces)


@pytest.mark.parametrize(("at", "is_hidden"), [(1, True), (2, False), (None, False)])
def test_a_feature_that_is_zero_in_the_sample_alone_is_hidden(at: Any, is_hidden: bool) -> None:
    value = torch.ones(5, 3)
    value[:, 1] = 0
    if at is not None:
        value[at, 1] = 4
    assert _is_hidden(value, torch.tensor([0, 2, 4])) == is_hidden
