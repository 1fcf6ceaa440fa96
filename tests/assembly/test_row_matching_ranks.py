"""Unknown names over stages and expert ranks: shards are joined, others' copies are known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.by_name import shards_of_one_name
from tests.support.pairs import compare_and_diagnose, noise, write_plain

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    Weights = dict[str, Tensor]

LAYERS, EXPERTS = 4, 4


def reference() -> Weights:
    found = {"net.tok": noise(24, 8)}
    for layer in range(LAYERS):
        seed = 10 * layer
        found[f"net.{layer}.out"] = noise(8, 8, seed=seed + 1)
        found[f"net.{layer}.norm"] = noise(8, seed=seed + 2)
        for expert in range(EXPERTS):
            found[f"net.{layer}.bank.{expert}"] = noise(8, 12, seed=seed + 3 + expert)
    return found


def of_rank(whole: Weights, at: tuple[int, int, int], sizes: tuple[int, int, int]) -> Weights:
    """Return what (tp, pp, ep) holds; `out` and the experts are cut by columns."""
    (tp, pp, ep), (tps, pps, eps) = at, sizes
    layers, experts = LAYERS // pps, EXPERTS // eps
    state = {"tokens": whole["net.tok"].chunk(tps)[tp]} if pp == 0 else {}
    for local in range(layers):
        layer = pp * layers + local
        state[f"decoder.layers.{local}.mix"] = whole[f"net.{layer}.out"].chunk(tps, 1)[tp]
        state[f"decoder.layers.{local}.scale"] = whole[f"net.{layer}.norm"]
        for expert in range(experts):
            state[f"decoder.layers.{local}.mlp.experts.local_experts.{expert}.w"] = whole[
                f"net.{layer}.bank.{ep * experts + expert}"
            ].chunk(tps, 1)[tp]
    return state


def megatron(folder: Path, whole: Weights, sizes: tuple[int, int, int]) -> Path:
    tps, pps, eps = sizes
    args: Any = {
        "tensor_model_parallel_size": tps,
        "pipeline_model_parallel_size": pps,
        "expert_model_parallel_size": eps,
        "expert_tensor_parallel_size": tps,
        "num_experts": EXPERTS,
    }
    for tp in range(tps):
        for pp in range(pps):
            for ep in range(eps):
                name = f"mp_rank_{tp:02d}" + f"_{pp:03d}" * (pps > 1) + f"_{ep:03d}" * (eps > 1)
                file = folder / "iter_0000001" / name / "model_optim_rng.pt"
                file.parent.mkdir(parents=True)
                state = of_rank(whole, (tp, pp, ep), sizes)
                model = {name: tensor.clone() for name, tensor in state.items()}
                torch.save({"args": args, "iteration": 1, "model": model}, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


def test_shards_are_put_together_by_the_ranks_behind_their_names() -> None:
    dense = ["x [tp 0]", "x [tp 1]", "x [tp 0 ep 1]", "x [tp 1 ep 1]"]
    assert shards_of_one_name(dense) == {"x": dense[:2], "x [ep 1]": dense[2:]}
    each = ["x [tp 1 ep 1]", "x [tp 0]"]  # ETP 1: each expert rank is another TP rank
    assert shards_of_one_name(each) == {"x": each[::-1]}
    assert shards_of_one_name(["x [tp 0]", "x [tp 2]", "y"]) == {}
    stages = ["x [tp 0]", "x [tp 1 pp 1]"]
    assert shards_of_one_name(stages) == {}


@pytest.mark.parametrize("sizes", [(2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2)])
def test_every_tensor_is_matched_and_none_is_left(
    tmp_path: Path, sizes: tuple[int, int, int]
) -> None:
    a = reference()
    write_plain(tmp_path / "hf", a)
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    found, findings = compare_and_diagnose(
        tmp_path / "hf", megatron(tmp_path / "megatron", a, sizes)
    )
    assert found.statuses == dict.fromkeys(a, "matched")
    assert {f.kind for f in findings} <= {"CONFIG"}


def test_exchanged_layers_over_stages_are_not_the_same(tmp_path: Path) -> None:
    a = reference()
    moved = {**a, "net.1.out": a["net.2.out"], "net.2.out": a["net.1.out"]}
    write_plain(tmp_path / "hf", a)
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    found, _ = compare_and_diagnose(
        tmp_path / "hf", megatron(tmp_path / "megatron", moved, (2, 2, 2))
    )
    assert found["net.1.out"].status in ("matched", "differ")
    assert "same" not in found.statuses.values()
