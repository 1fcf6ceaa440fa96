"""Logits as Meta's code computes them: of its own files, and of Hugging Face's on request."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.oracle_hf import LLAMA3_ROPE
from tests.support.oracle_meta import make_meta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Weights = Callable[..., dict[str, Tensor]]

pytestmark = pytest.mark.mostly_slow(one_in=4)
SIZES: dict[str, Any] = {
    "layers": 3,
    "hidden": 64,
    "heads": 8,
    "groups": 4,
    "head_dim": 8,
    "ffn": 96,
    "vocab": 120,
}
IDS = tokens(24, SIZES["vocab"])
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptdiff.logits.run.available_cpus", lambda: 1)


@pytest.fixture
def make(tiny_hf: Make, tiny_weights: Weights, tmp_path: Path) -> Callable[..., Path]:
    """Return `make(changes of the params, **arguments of make_meta)`: a twin of the HF folder."""

    def made(params: dict[str, Any] | None = None, **options: Any) -> Path:
        config = json.loads((tiny_hf(**SIZES) / "config.json").read_text())
        folder = make_meta(tmp_path / "meta", tiny_weights(**SIZES), config, **options)
        file = folder / "params.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | (params or {})))
        return folder

    return made


def metas(folder: Path, ids: list[int], dtype: torch.dtype) -> Tensor:
    """Return what Meta's model.py computes of one rank's file, formula by formula."""
    params = json.loads((folder / "params.json").read_text())
    state = torch.load(folder / "consolidated.00.pth", weights_only=True)
    w = {name: t.to(dtype) for name, t in state.items()}
    dim, heads, groups = params["dim"], params["n_heads"], params["n_kv_heads"]
    d = params.get("head_dim", dim // heads)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + params["norm_eps"])
        return scaled.type_as(x) * weight

    freqs = 1.0 / (params["rope_theta"] ** (torch.arange(0, d, 2)[: d // 2].float() / d))
    turns = torch.outer(torch.arange(len(ids), dtype=torch.float32), freqs)
    unit = torch.polar(torch.ones_like(turns), turns)[:, None]

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * unit).flatten(2).type_as(x)

    hidden = torch.full((len(ids), len(ids)), float("-inf")).triu(1).to(dtype)
    x = w["tok_embeddings.weight"][ids]
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}."
        h = norm(x, w[at + "attention_norm.weight"])
        q, k, v = (
            functional.linear(h, w[f"{at}attention.w{part}.weight"]).view(len(ids), -1, d)
            for part in "qkv"
        )
        q, k = rotated(q), rotated(k)
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        scores = torch.matmul(q, k.transpose(1, 2)) / math.sqrt(d) + hidden
        mixed = torch.matmul(functional.softmax(scores.float(), dim=-1).type_as(q), v)
        mixed = mixed.transpose(0, 1).reshape(len(ids), -1)
        x = x + functional.linear(mixed, w[at + "attention.wo.weight"])
        h = norm(x, w[at + "ffn_norm.weight"])
        gate, up = (functional.linear(h, w[f"{at}feed_forward.w{n}.weight"]) for n in "13")
        x = x + functional.linear(functional.silu(gate) * up, w[at + "feed_forward.w2.weight"])
    return functional.linear(norm(x, w["norm.weight"]), w["output.weight"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_kinds_of_files_give_the_bits_of_metas_formulas(
    dtype: str, make: Callable[..., Path], tiny_hf: Make
) -> None:
    folder = make()
    with torch.inference_mode():
        wanted = metas(folder, IDS, DTYPES[dtype])
    hf, own = free_run(tiny_hf(**SIZES), folder, IDS, dtype, reference="meta")
    assert torch.equal(own, wanted)
    assert torch.equal(hf, wanted)
    plain, _ = free_run(tiny_hf(**SIZES), folder, IDS, dtype)
    assert not torch.equal(plain, wanted)


@pytest.mark.mostly_slow(one_in=8)
@pytest.mark.parametrize("reference", ["hf", "meta"])
@pytest.mark.parametrize(
    ("mp", "embedding"), [(1, "llama3"), (2, "llama2"), (2, "llama3"), (8, "llama3")]
)
def test_a_twin_is_arithmetic_either_way_round(
    mp: int, embedding: str, reference: str, make: Callable[..., Path], tiny_hf: Make
) -> None:
    pair = tiny_hf(**SIZES), make(mp=mp, embedding=embedding)
    for a, b in (pair, pair[::-1]):
        found = compare_logits(a, b, IDS, reference=reference)
        assert found.verdict == "arithmetic"
        assert len(found.taps) == 3 * 11 + 3  # none is left out


def test_a_megatron_side_is_compared_with_metas_arithmetic(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    found = compare_logits(
        tiny_hf(**SIZES), tiny_megatron(SIZES, tp=2), IDS, reference="meta", storage="bf16"
    )
    assert found.verdict == "arithmetic"
    assert found.ratio is not None
    assert 0.5 < found.ratio < 1.5


def test_scaled_positions_have_the_factor_of_the_models_size(
    make: Callable[..., Path], tiny_hf: Make
) -> None:
    scaled = tiny_hf(**SIZES, rope_scaling={**LLAMA3_ROPE, "factor": 32.0})
    folder = make({"use_scaled_rope": True, "rope_theta": 500000.0})
    found = compare_logits(scaled, folder, IDS)
    assert found.verdict == "arithmetic"
    assert any("taken as 32" in note for note in found.notes)
    params = folder / "params.json"
    told = {**json.loads(params.read_text()), "rope_scaling_factor": 8}
    params.write_text(json.dumps(told))
    found = compare_logits(scaled, folder, IDS)
    assert found.first is not None
    assert (found.first.layer, found.first.name) == (0, "q_rope")


def swapped(weights: dict[str, Tensor], one: str, other: str) -> None:
    weights[one], weights[other] = weights[other], weights[one]


def halves(weights: dict[str, Tensor], name: str) -> None:
    """Leave rows in Hugging Face's order."""
    heads = weights[name].view(SIZES["heads"], -1, 2, SIZES["hidden"])
    weights[name] = heads.transpose(1, 2).reshape(weights[name].shape).contiguous()


FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], None], set[tuple[int | None, str]]]] = {
    "gate and up": (
        lambda w: swapped(w, "layers.1.feed_forward.w1.weight", "layers.1.feed_forward.w3.weight"),
        {(1, "act")},
    ),
    "k and v": (
        lambda w: swapped(w, "layers.2.attention.wk.weight", "layers.2.attention.wv.weight"),
        {(2, "k"), (2, "v")},
    ),
    "rows of q not woven": (lambda w: halves(w, "layers.0.attention.wq.weight"), {(0, "q")}),
    "norms": (
        lambda w: swapped(w, "layers.1.ffn_norm.weight", "norm.weight"),
        {(1, "norm2"), (None, "final_norm")},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_where_it_is(
    name: str, make: Callable[..., Path], tiny_hf: Make
) -> None:
    plant, steps = FAULTS[name]
    folder = make()
    file = folder / "consolidated.00.pth"
    weights = torch.load(file, weights_only=True)
    plant(weights)
    torch.save(weights, file)
    found = compare_logits(tiny_hf(**SIZES), folder, IDS)
    assert found.verdict == "weights-or-config"
    assert {(t.layer, t.name) for t in found.taps if t.rel > found.threshold} == steps


def test_ranks_in_each_others_place_show_where_they_add_up(
    make: Callable[..., Path], tiny_hf: Make
) -> None:
    folder = make(mp=2)
    files = [folder / f"consolidated.0{rank}.pth" for rank in (0, 1)]
    states = [torch.load(file, weights_only=True) for file in files]
    key = "layers.1.feed_forward.w2.weight"
    states[0][key], states[1][key] = states[1][key], states[0][key]
    for file, state in zip(files, states, strict=True):
        torch.save(state, file)
    found = compare_logits(tiny_hf(**SIZES), folder, IDS)
    assert {(t.layer, t.name) for t in found.taps if t.rel > found.threshold} == {(1, "mlp_out")}
