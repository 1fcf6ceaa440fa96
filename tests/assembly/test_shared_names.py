"""Two Megatron sides of a family without rules: names that both have are compared."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.pairs import compare_and_diagnose
from tests.support.unknown_family import GROUPS, HEAD, HEADS, LAYERS, tensors, write_megatron

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

INDEXER = "decoder.layers.1.self_attention.indexer.linear_wq_b.weight"


def with_key_norm(tp: int) -> Callable[[dict[str, Tensor]], None]:
    """Return what adds each rank's rows of the norms of keys, rank by rank."""
    ranks = count()

    def change(model: dict[str, Tensor]) -> None:
        rank = next(ranks)
        for layer in range(LAYERS):
            norm = torch.arange(float(GROUPS * HEAD)) + layer
            name = f"decoder.layers.{layer}.self_attention.k_layernorm.weight"
            model[name] = norm.chunk(tp)[rank].clone()

    return change


@pytest.mark.parametrize(("tp_a", "tp_b"), [(1, 2), (2, 1), (1, 1), (2, 2)])
def test_one_model_at_two_tp_sizes_is_the_same(tmp_path: Path, tp_a: int, tp_b: int) -> None:
    """Its norm over all heads is cut by TP; no rule knows its indexer."""
    sides = [
        write_megatron(tmp_path / name, tensors(), tp=tp, change=with_key_norm(tp))
        for name, tp in zip("ab", (tp_a, tp_b), strict=True)
    ]
    found, said = compare_and_diagnose(*sides)
    assert found.statuses == {}
    assert said == []
    norm = found["model.layers.0.self_attn.q_norm.weight"]
    assert norm.shape_a == norm.shape_b == (HEADS * HEAD,)
    for side in (found.a, found.b):
        assert not side.unmapped
        assert any("may be of another" in note for note in side.notes)
    assert any(name.startswith(INDEXER) for name in found.results)


@pytest.mark.parametrize(("tp_a", "tp_b"), [(1, 2), (2, 1), (2, 2)])
def test_a_difference_under_a_name_that_no_rule_knows_is_found(
    tmp_path: Path, tp_a: int, tp_b: int
) -> None:
    def change(model: dict[str, Tensor]) -> None:
        model[INDEXER] = model[INDEXER] + 1

    a = write_megatron(tmp_path / "a", tensors(), tp=tp_a)
    b = write_megatron(tmp_path / "b", tensors(), tp=tp_b, change=change)
    found, _ = compare_and_diagnose(a, b)
    assert {name.partition(" [")[0] for name in found.statuses} == {INDEXER}
    assert set(found.statuses.values()) == {"differ"}


def test_a_replica_that_differs_under_such_a_name_is_found(tmp_path: Path) -> None:
    ranks = iter((False, True))

    def change(model: dict[str, Tensor]) -> None:
        if next(ranks):
            model[INDEXER] = model[INDEXER] + 1

    a = write_megatron(tmp_path / "a", tensors(), tp=1)
    b = write_megatron(tmp_path / "b", tensors(), tp=2, change=change)
    found, _ = compare_and_diagnose(a, b)
    assert found.statuses == {INDEXER: "differ"}
