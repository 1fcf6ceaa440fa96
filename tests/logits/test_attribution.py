"""Roundings are traced one by one, and what they add up to is what the low precision shows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.executor import InlineExecutor
from ckptdiff.forward import blocks
from ckptdiff.forward.arithmetic import MEGATRON, META, TRANSFORMERS
from ckptdiff.forward.rounding import Carrying, Rounding
from ckptdiff.logits import run as logits
from ckptdiff.results import LogitProgress
from tests.support.logit_runs import compare_logits, tokens
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.pairs import open_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.model import Activation
    from ckptdiff.results import CauseShare, LogitDiff

    Operation = Callable[[Arithmetic, dict[str, Tensor]], Tensor]

SMALL: dict[str, Any] = {
    "layers": 3,
    "hidden": 128,
    "heads": 4,
    "groups": 4,
    "head_dim": 32,
    "ffn": 320,
    "vocab": 512,
}
IDS = tokens(24, SMALL["vocab"])
NVIDIA = (
    "Q, K, V and gate, up as one product",
    "scores rounded before they are scaled",
    "rotary products rounded",
    "rotary tables rounded",
    "default dtype fp16",
)
NORM = "norm rounded before its weight"
RANKS = "sums over tensor ranks rounded"
BIAS = "product rounded before its bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attribution")


def made(folder: Path, tp: int, family: str = "llama", **changes: Any) -> tuple[Path, Path]:
    """Return a Hugging Face folder and its Megatron twin."""
    hf = folder / f"{family}-{sorted(changes.items())}"
    megatron = hf.with_name(f"{hf.name}-{tp}")
    if not megatron.exists():
        weights = make_hf(hf, family, **{**SMALL, **changes})  # type: ignore[arg-type]
        make_megatron(megatron, weights, json.loads((hf / "config.json").read_text()), tp=tp)
    return hf, megatron


def traced(hf: Path, megatron: Path, dtype: str = "bf16", **options: Any) -> LogitDiff:
    return compare_logits(hf, megatron, IDS, storage=dtype, attribute=True, **options)


def lines(found: LogitDiff) -> dict[str, CauseShare]:
    assert found.attribution, found.notes
    return {share.cause: share for share in found.attribution}


# ── what is predicted ────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_roundings_predict_how_far_two_programs_are_apart(
    folder: Path, dtype: str, tp: int, seed: int
) -> None:
    found = traced(*made(folder, tp, seed=seed), dtype)
    assert found.budget is not None
    ratios = [
        of / measured
        for sizes in (found.budget.predicted, found.budget.emulated)
        for of, measured in zip(sizes, found.budget.measured, strict=True)
    ]
    print(f"{dtype}, TP {tp}, seed {seed}: {ratios}")  # noqa: T201
    assert all(0.85 < ratio < 1.15 for ratio in ratios)
    assert any(note.startswith("attribution: ") for note in found.notes)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("reference", ["hf", "meta"])
def test_shares_add_up_to_one_and_the_noise_of_both_is_first(
    folder: Path, family: str, reference: str
) -> None:
    found = traced(*made(folder, 2, family), reference=reference)
    shares = found.attribution
    assert sum(share.share for share in shares) == pytest.approx(1)
    assert all(share.share >= 0 for share in shares)
    assert shares[0].cause == "rounding that both sides share"
    assert shares[0].share == max(share.share for share in shares)
    assert "noise of two correct runs" in shares[0].note
    assert tuple(share.cause for share in shares[1 : 1 + len(NVIDIA)]) == NVIDIA
    assert all(len(share.layers) == SMALL["layers"] for share in shares)


# ── each cause has its line ──────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_causes_that_make_nothing_are_exactly_zero_and_say_why(folder: Path) -> None:
    found = lines(traced(*made(folder, 1, heads=8, groups=8, head_dim=16)))
    for cause in NVIDIA:
        assert found[cause].share == 0, cause
        assert set(found[cause].layers) == {0.0}, cause
        assert found[cause].note.startswith("exactly 0"), cause
    assert "power of two" in found["scores rounded before they are scaled"].note
    assert "only Meta's" in found["rotary tables rounded"].note
    assert RANKS not in found
    assert BIAS not in found


@pytest.mark.slow
def test_causes_are_told_where_one_side_alone_rounds(folder: Path) -> None:
    hf = lines(traced(*made(folder, 1)))
    assert hf["scores rounded before they are scaled"].share > 0.01
    assert hf[NORM].share > 0.01
    assert hf[NORM].note == "in A alone"
    assert hf[NORM].layers[0] > 0
    meta = lines(traced(*made(folder, 1), reference="meta"))
    for cause in ("rotary products rounded", "rotary tables rounded"):
        assert meta[cause].share > 0.001
        assert meta[cause].note == "in B alone"


@pytest.mark.slow
def test_the_other_side_is_told_by_its_letter(folder: Path) -> None:
    hf, megatron = made(folder, 1)
    assert lines(traced(megatron, hf))[NORM].note == "in B alone"


@pytest.mark.slow
def test_ranks_that_add_up_are_a_cause_that_grows(folder: Path) -> None:
    two, four = (lines(traced(*made(folder, tp)))[RANKS] for tp in (2, 4))
    assert 0 < two.share < four.share
    assert two.note == "A adds up 1, B 2"


@pytest.mark.slow
def test_ranks_that_add_up_on_both_sides_differ_only_by_their_number(folder: Path) -> None:
    two, four = (made(folder, tp)[1] for tp in (2, 4))
    assert lines(traced(two, four))[RANKS].share > 0
    same = traced(two, two)
    assert RANKS not in lines(same)
    assert {share.share for share in same.attribution} == {0.0}
    assert same.attribution[0].note == "exactly 0: both sides round alike everywhere"


@pytest.mark.slow
def test_experts_of_several_ranks_are_added_up_in_parts(folder: Path) -> None:
    hf, one, two, cut = (folder / f"of-three-{name}" for name in ("hf", "one", "two", "cut"))
    weights = make_hf(hf, "mixtral", **{**SMALL, "layers": 1})
    config = json.loads((hf / "config.json").read_text()) | {"num_experts_per_tok": 3}
    (hf / "config.json").write_text(json.dumps(config))
    make_megatron(one, weights, config)
    make_megatron(two, weights, config, ep=2)
    make_megatron(cut, weights, config, tp=2)
    sums = "sums over experts rounded"
    by_rank, by_slice = (
        compare_logits(hf, b, IDS[:8], storage="bf16", attribute=True) for b in (two, cut)
    )
    assert lines(by_rank)[sums].share > 0
    assert lines(by_rank)[sums].note == lines(by_slice)[sums].note == "A adds up 1, B 2"
    assert RANKS not in lines(by_rank)
    assert lines(by_slice)[RANKS].note == "A adds up 1, B 2"
    for found in (by_rank, by_slice):
        assert found.budget is not None
        assert found.budget.emulated == pytest.approx(found.budget.measured, rel=0.02)
    between = compare_logits(one, two, IDS[:8], storage="bf16", attribute=True)
    causes = {share.cause for share in between.attribution if share.share}
    assert causes == {"rounding that both sides share", sums}
    # Of two experts there is one sum, wherever they are.
    of_two = make_megatron(folder / "of-two", weights, config | {"num_experts_per_tok": 2}, ep=2)
    hf, one = made(folder, 1, "mixtral", layers=1)
    between = compare_logits(one, of_two, IDS[:8], storage="bf16", attribute=True)
    assert {share.share for share in between.attribution} == {0.0}
    assert sums not in lines(compare_logits(hf, of_two, IDS[:8], storage="bf16", attribute=True))


@pytest.mark.slow
def test_a_bias_is_added_to_what_was_rounded(folder: Path) -> None:
    found = lines(traced(*made(folder, 1, "qwen2")))
    assert found[BIAS].share > 0
    assert found[BIAS].note == "in B alone"


@pytest.mark.slow
def test_a_norm_whose_weights_are_powers_of_two_rounds_once(folder: Path) -> None:
    hf, _ = made(folder, 1, seed=7, shards=1, single=True)
    weights = load_file(hf / "model.safetensors")
    for name, weight in weights.items():
        if "norm" in name:
            weights[name] = torch.full_like(weight, 0.5)
    save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((hf / "config.json").read_text())
    megatron = make_megatron(folder / "halves", weights, config)
    assert NORM not in lines(traced(hf, megatron))


@pytest.mark.slow
def test_logits_are_counted_a_few_positions_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = traced(*made(folder, 2)).budget
    monkeypatch.setattr(blocks, "MOST_LOGITS", 5 * SMALL["vocab"])
    parts = traced(*made(folder, 2)).budget
    assert whole is not None
    assert parts is not None
    assert parts.measured == pytest.approx(whole.measured)
    # The sums of products come out otherwise, and some values round to their other neighbour.
    assert parts.predicted == pytest.approx(whole.predicted, rel=0.01)


# ── where there is none ──────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_fault_is_no_matter_of_rounding(folder: Path) -> None:
    found = traced(made(folder, 1)[0], made(folder, 1, seed=1)[1])
    assert (found.attribution, found.budget) == ((), None)
    assert "no attribution: the difference is not of arithmetic alone" in found.notes


@pytest.mark.slow
def test_in_float32_the_sums_inside_products_count(folder: Path) -> None:
    found = traced(*made(folder, 1), "fp32")
    assert (found.attribution, found.budget) == ((), None)
    assert any("ask for bf16 or fp16" in note for note in found.notes)


@pytest.mark.slow
def test_values_beyond_fp16_leave_no_budget(folder: Path) -> None:
    hf, _ = made(folder, 1, seed=8, shards=1, single=True)
    weights = load_file(hf / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e5
    save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((hf / "config.json").read_text())
    found = traced(hf, make_megatron(folder / "large", weights, config), "fp16")
    assert (found.attribution, found.budget) == ((), None)
    assert "no attribution: some value is not finite in fp16" in found.notes


@pytest.mark.slow
def test_progress_is_told_by_section(folder: Path) -> None:
    sides = open_pair(*made(folder, 1))
    found = logits.compare_logits(*sides, IDS, InlineExecutor(), attribute=True)
    told = [r.done for r in found if isinstance(r, LogitProgress) and "rounding" in r.doing]
    assert told == list(range(1, SMALL["layers"] + 3))


# ── the emulation ────────────────────────────────────────────────────────────────────────────────


def _activation(name: Activation) -> Operation:
    return lambda how, v: how.activate(v["x"], name)


OPERATIONS: dict[str, Operation] = {
    "linear": lambda how, v: how.linear(v["x"], v["w"]),
    "bias": lambda how, v: how.linear(v["x"], v["w"], v["bias"]),
    "ranks": lambda how, v: replace(how, ranks=4).row_parallel([(v["x"], v["w"])], v["bias"]),
    "norm": lambda how, v: how.rms_norm(v["x"], v["bias"], 1e-5),
    "wide norm": lambda how, v: how.rms_norm(v["x"], v["bias"], 1e-5, is_wide=True),
    "layer norm": lambda how, v: how.layer_norm(v["x"], v["bias"], v["bias"], 1e-5),
    "scaled": lambda how, v: how.scaled(v["x"], 64**0.4),
    "rotate": lambda how, v: how.rotate(v["heads"], v["cosine"], v["sine"]),
    "neighbours": lambda how, v: how.rotate(v["heads"], v["cosine"], v["sine"], neighbours=True),
    "wide rotate": lambda how, v: how.rotate(v["heads"], v["cosine"], v["sine"], is_wide=True),
    "attend": lambda how, v: how.attend(v["heads"], v["heads"], v["heads"], 0.3, None),
    "capped": lambda how, v: how.attend(v["heads"], v["heads"], v["heads"], 0.3, None, 3.0),
    "gate": lambda how, v: how.gate(v["x"], v["x"].flip(0), "silu"),
    "add": lambda how, v: how.add(v["x"], v["x"].flip(0)),
    "silu": _activation("silu"),
    "gelu": _activation("gelu"),
    "gelu_tanh": _activation("gelu_tanh"),
    "gelu_new": _activation("gelu_new"),
    "relu2": _activation("relu2"),
}


def drawn(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"x": (32, 64), "w": (64, 64), "bias": (64,), "heads": (32, 4, 16)}
    values = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    angles = torch.randn(32, 8, generator=generator).repeat(1, 2)
    return {**values, "cosine": angles.cos(), "sine": angles.sin()}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("how", [TRANSFORMERS, META, MEGATRON], ids=lambda how: how.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_emulated_rounds_as_the_program_does(
    dtype: torch.dtype, how: Arithmetic, operation: str
) -> None:
    values = drawn(dtype)
    wide = {name: value.double() for name, value in values.items()}
    real = OPERATIONS[operation](how, values)
    rounding = Rounding(**vars(how), dtype=dtype)
    emulated = OPERATIONS[operation](rounding, wide)
    # float32 inside the program leaves a value next to the middle on its other side, rarely.
    assert float((real.double() == emulated).double().mean()) > 0.98
    exact = Carrying(**vars(how), only=frozenset(), errors=iter(rounding.errors))
    assert not torch.equal(emulated, OPERATIONS[operation](exact, wide))
    assert math.isfinite(float(emulated.sum()))
