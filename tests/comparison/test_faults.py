"""Whatever is wrong with a checkpoint is seen, in the tensors that it touches and in no others."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.oracle import make_megatron
from tests.support.pairs import bits, compare, config_of, edit_rank, rank_file, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Weights = dict[str, Tensor]

pytestmark = pytest.mark.mostly_slow(one_in=3)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
QWEN = {"family": "qwen2", "tied": False}

with_qwen = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "input_layernorm.weight",
        *(f"self_attn.{x}_proj.{kind}" for x in "qkv" for kind in ("weight", "bias")),
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        *(f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
    )
]


@pytest.fixture
def megatron_of(tmp_path: Path, tiny_hf: Make) -> Callable[..., Path]:
    """Return a function that writes weights as a checkpoint of the model they were taken from."""

    def make(weights: Weights, model: dict[str, Any] | None = None, **layout: Any) -> Path:
        config = config_of(tiny_hf(**(model or {})))
        folder = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        return make_megatron(folder, weights, config, **{"divisible_by": 8, **layout})

    return make


@pytest.mark.mostly_slow(one_in=27)
@pytest.mark.parametrize("name", [EMBEDDING, *with_qwen, "model.norm.weight", HEAD])
def test_one_flipped_bit_is_seen_in_its_tensor_alone(
    tiny_hf: Make, tiny_weights: Any, megatron_of: Make, name: str
) -> None:
    weights = tiny_weights(**QWEN)
    weights[name] = weights[name].clone()
    flat = bits(weights[name]).view(-1)
    flat[len(flat) * 2 // 3] ^= 1
    comparison = compare(tiny_hf(**QWEN), megatron_of(weights, QWEN, tp=2, pp=2, names="te"))
    assert comparison.statuses == {name: "differ"}
    numbers = comparison.numbers(name)
    assert (numbers.differing, numbers.max_ulp) == (1, 1)
    at = torch.tensor(numbers.max_at)
    assert comparison.summary.weights == "differ"
    flipped = torch.nonzero(bits(weights[name]) != bits(tiny_weights(**QWEN)[name]))
    assert at.tolist() == flipped[0].tolist()


@pytest.mark.parametrize("bit", range(16))
def test_every_bit_of_an_element_counts(tmp_path: Path, bit: int) -> None:
    a = {"w": torch.full((9, 5), 1.5, dtype=torch.bfloat16)}
    b = {"w": a["w"].clone()}
    bits(b["w"])[7, 3] ^= -(1 << 15) if bit == 15 else 1 << bit
    comparison = compare(write_plain(tmp_path / "a", a), write_plain(tmp_path / "b", b))
    assert comparison.statuses == {"w": "differ"}
    assert comparison.numbers("w").differing == 1


def test_exchanged_shards_are_seen_in_every_divided_tensor(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    one, other = rank_file(megatron, "00"), rank_file(megatron, "01")
    kept = one.rename(one.with_suffix(".kept"))
    other.rename(one)
    kept.rename(other)
    comparison = compare(tiny_hf(), megatron)
    divided = {name for name in comparison.results if "norm" not in name}
    assert comparison.statuses == dict.fromkeys(divided, "differ")
    for name in divided:
        assert comparison.numbers(name).cosine < 0.9


@pytest.mark.parametrize("odd", ["00", "01"])
def test_a_norm_that_drifted_on_one_rank_differs_and_the_note_says_where(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, odd: str
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    native = "decoder.layers.1.pre_mlp_layernorm.weight"

    def drift(state: dict[str, Any]) -> None:
        bits(state["model"][native])[3:5] ^= 1

    edit_rank(rank_file(megatron, odd), drift)
    comparison = compare(tiny_hf(), megatron)
    name = "model.layers.1.post_attention_layernorm.weight"
    assert comparison.statuses == {name: "differ"}
    assert comparison[name].why is None
    assert comparison[name].note == (
        f"replica drift in B: mp_rank_01 {native} differs from mp_rank_00 {native} in 2 elements"
    )
    assert comparison.numbers(name).differing == (2 if odd == "00" else 0)


@pytest.mark.parametrize("names", ["mcore", "te", "legacy"])
@pytest.mark.parametrize("rank", ["00_001", "01_001"])
def test_a_tied_head_that_drifted_on_the_last_stage_makes_the_embedding_differ(
    tiny_hf: Make, tiny_weights: Any, tiny_megatron: Make, megatron_of: Make, copy_of: Make,
    rank: str, names: str,
) -> None:  # fmt: skip
    model = {"tied": True}
    layout = {"tp": 2, "pp": 2, "names": names}
    megatron = copy_of(tiny_megatron(model=model, **layout))
    stale = tiny_weights(**model)
    stale[EMBEDDING] = stale[EMBEDDING].clone()
    rows = slice(0, 2) if rank.startswith("00") else slice(50, 52)
    stale[EMBEDDING][rows] += 1
    shutil.copy(rank_file(megatron_of(stale, model, **layout), rank), rank_file(megatron, rank))
    comparison = compare(tiny_hf(**model), megatron)
    assert comparison.statuses == {EMBEDDING: "differ"}
    note = str(comparison[EMBEDDING].note)
    assert f"replica drift in B: mp_rank_{rank}" in note
    assert "in 64 elements" in note
    assert comparison.numbers(EMBEDDING).differing == 0


def test_a_replica_in_the_reference_that_drifted_is_seen_too(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def drift(state: dict[str, Any]) -> None:
        state["model"]["decoder.final_layernorm.weight"][0] += 1

    edit_rank(rank_file(megatron, "01"), drift)
    comparison = compare(megatron, tiny_hf())
    assert comparison.statuses == {"model.norm.weight": "differ"}
    assert "replica drift in A" in str(comparison["model.norm.weight"].note)


def test_padding_that_drifted_between_copies_is_not_judged(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    """Nothing reads the rows of no token: a tied head may pad otherwise than the embedding."""
    model = {"tied": True}
    megatron = copy_of(tiny_megatron(model=model, tp=2, pp=2))

    def drift(state: dict[str, Any]) -> None:
        state["model"]["output_layer.weight"][-1] += 1  # 61 tokens in 64 rows

    edit_rank(rank_file(megatron, "01_001"), drift)
    assert compare(tiny_hf(**model), megatron).summary.weights == "same"


def test_a_layer_that_is_missing_is_only_in_the_reference(
    tiny_hf: Make, tiny_weights: Any, tmp_path: Path
) -> None:
    weights = tiny_weights(layers=3)
    config = config_of(tiny_hf(layers=3)) | {"num_hidden_layers": 2}
    make_megatron(tmp_path / "m", weights, config, tp=2, divisible_by=8)
    comparison = compare(tiny_hf(layers=3), tmp_path / "m")
    lost = {name for name in weights if "layers.2." in name}
    assert len(lost) == 9
    assert comparison.statuses == dict.fromkeys(lost, "only_a")
    assert comparison.summary.weights == "differ"


def test_a_layer_too_many_is_only_in_the_other_one(
    tiny_hf: Make, tiny_weights: Any, tmp_path: Path
) -> None:
    weights = tiny_weights(layers=3)
    shorter = {name: w for name, w in weights.items() if "layers.2." not in name}
    write_plain(tmp_path / "a", shorter)
    comparison = compare(tmp_path / "a", tiny_hf(layers=3))
    assert set(comparison.statuses.values()) == {"only_b"}
    assert set(comparison.statuses) == weights.keys() - shorter.keys()
    for name in comparison.statuses:
        assert comparison[name].shape_b == tuple(weights[name].shape)
        assert comparison[name].shape_a is None
        assert comparison[name].numbers is None


@pytest.mark.parametrize("lost", ["q_norm", "k_norm"])
def test_a_norm_that_is_missing_on_all_ranks_is_only_in_the_reference(
    tiny_hf: Make, tiny_weights: Any, megatron_of: Make, lost: str
) -> None:
    model = {"family": "qwen3"}
    name = f"model.layers.1.self_attn.{lost}.weight"
    weights = tiny_weights(**model)
    del weights[name]
    comparison = compare(tiny_hf(**model), megatron_of(weights, model, tp=2))
    assert comparison.statuses == {name: "only_a"}


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("ranks", [("00",), ("01",), ("00", "01")])
def test_a_tensor_that_no_rule_knows_is_listed_and_counts(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, ranks: tuple[str, ...], exchanged: bool
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    native = "decoder.layers.1.mlp.router.expert_bias"
    for rank in ranks:
        edit_rank(rank_file(megatron, rank), lambda s: s["model"].update({native: torch.zeros(4)}))
    pair = (tiny_hf(), megatron)
    comparison = compare(*(pair[::-1] if exchanged else pair))
    assert comparison.statuses == {}
    side = comparison.a if exchanged else comparison.b
    assert side.unmapped == (native,)
    assert comparison.summary.weights == comparison.summary.verdict == "differ"


def test_a_bias_that_the_family_does_not_have_is_unmapped(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(model={"family": "mistral"}))
    native = "decoder.layers.0.self_attention.linear_qkv.bias"
    edit_rank(rank_file(megatron, "00"), lambda s: s["model"].update({native: torch.zeros(64)}))
    comparison = compare(tiny_hf(family="mistral"), megatron)
    assert comparison.b.unmapped == (native,)
    assert comparison.summary.weights == "differ"


def test_a_transposed_square_matrix_differs(
    tiny_hf: Make, tiny_weights: Any, megatron_of: Make
) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    weights = tiny_weights()
    assert weights[name].shape == (32, 32)
    weights[name] = weights[name].t().contiguous()
    comparison = compare(tiny_hf(), megatron_of(weights, tp=2))
    assert comparison.statuses == {name: "differ"}


@pytest.mark.parametrize(("one", "other"), [("k", "v"), ("gate", "up")])
def test_exchanged_projections_differ_and_nothing_else_does(
    tiny_hf: Make, tiny_weights: Any, megatron_of: Make, one: str, other: str
) -> None:
    part = "self_attn" if one == "k" else "mlp"
    x, y = (f"model.layers.1.{part}.{name}_proj.weight" for name in (one, other))
    weights = tiny_weights()
    weights[x], weights[y] = weights[y], weights[x]
    comparison = compare(tiny_hf(), megatron_of(weights, tp=2))
    assert comparison.statuses == {x: "differ", y: "differ"}


def test_a_whole_checkpoint_rounded_to_bfloat16_is_close(
    tmp_path: Path, tiny_hf: Make, tiny_weights: Any, megatron_of: Make
) -> None:
    model = {"dtype": torch.float32}
    rounded = {name: weight.bfloat16() for name, weight in tiny_weights(**model).items()}
    megatron = megatron_of(rounded, model, tp=2, pp=2)
    comparison = compare(tiny_hf(**model), megatron)
    assert set(comparison.statuses) == set(rounded)
    assert {(r.status, r.why) for r in comparison.results.values()} == {("close", "cast")}
    assert comparison.summary.weights == comparison.summary.verdict == "close"
