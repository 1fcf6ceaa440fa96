"""Folders that the oracle wrote equal their source, however they were cut and named."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdiff.arch.mixtral import MIXTRAL
from ckptdiff.arch.order import in_model_order
from ckptdiff.arch.qwen2 import QWEN2
from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Rank
from ckptdiff.formats import open_checkpoint
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import LLAMA3_ROPE, make_hf
from tests.support.pairs import compare, config_of, edit_rank, open_pair, rank_file, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.support.pairs import Comparison

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def assert_same(comparison: Comparison, weights: dict[str, Tensor]) -> None:
    assert comparison.statuses == {}
    assert {n: comparison.numbers(n).numel for n in comparison.results} == {
        name: weight.numel() for name, weight in weights.items()
    }
    assert comparison.summary.weights == "same"
    assert not comparison.b.unmapped
    assert not comparison.b.errors


LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "tp": ({}, {"tp": 2}),
    "tp 8": ({"heads": 8, "groups": 8, "ffn": 64}, {"tp": 8}),
    "pp": ({"layers": 4}, {"tp": 2, "pp": 4}),
    "vpp": ({"layers": 4}, {"tp": 2, "pp": 2, "vpp": 2}),
    "one layer a stage, one stage none": ({}, {"pp": 3, "layers_per_stage": [1, 0, 1]}),
    "ends without layers": ({"layers": 3}, {"pp": 3, "layers_per_stage": [0, 3, 0]}),
    "uneven": ({"layers": 5}, {"tp": 2, "pp": 3, "layers_per_stage": [1, 3, 1]}),
    "uneven vpp": ({"layers": 6}, {"pp": 2, "vpp": 2, "layers_per_stage": [1, 2, 2, 1]}),
    "vpp with an empty chunk": ({"layers": 5}, {"pp": 2, "vpp": 3,
                                                "layers_per_stage": [1, 1, 1, 1, 1, 0]}),
    "te": ({}, {"tp": 2, "pp": 2, "names": "te"}),
    "te 1": ({}, {"tp": 2, "names": "te", "extra_state": "bytesio"}),
    "te 2": ({}, {"tp": 2, "pp": 2, "names": "te", "extra_state": "tensor"}),
    "local with extra states": ({}, {"tp": 2, "extra_state": "none"}),
    "legacy": ({}, {"tp": 2, "pp": 2, "names": "legacy"}),
    "legacy of twelve layers": ({"layers": 12}, {"pp": 1, "names": "legacy"}),
    "module": ({}, {"tp": 2, "prefix": "module."}),
    "module twice, te": ({}, {"names": "te", "prefix": "module.module."}),
    "release": ({}, {"iteration": "release"}),
    "late iteration": ({}, {"iteration": 12_345_678}),
    "optimizer": ({}, {"tp": 2, "optimizer": True}),
    "optimizer apart": ({}, {"tp": 2, "optimizer": "distributed"}),
    "views": ({}, {"tp": 2, "views": True}),
    "mha": ({"groups": 4}, {"tp": 2}),
    "mha, args lie": ({"groups": 4}, {"tp": 4, "lies": ("mha",)}),
    "dtype lies": ({}, {"tp": 2, "lies": ("dtype", "rope")}),
    "heads wider than hidden": ({"head_dim": 16}, {"tp": 2}),
    "padding of its own rank": ({"vocab": 3}, {"tp": 2, "divisible_by": 8}),
    "no padding": ({"vocab": 64}, {"tp": 2, "divisible_by": 8}),
    "fp32": ({"dtype": torch.float32}, {"tp": 2}),
    "fp16": ({"dtype": torch.float16}, {"tp": 2}),
    "rope scaling": ({"rope_scaling": LLAMA3_ROPE, "transformers": 5}, {"tp": 2}),
    "bin": ({"kind": "bin"}, {"tp": 2}),
    "single file": ({"single": True}, {"tp": 2}),
}  # fmt: skip


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_equals_its_source(
    tiny_hf: Make, tiny_weights: Any, tiny_megatron: Make, layout: str, tied: bool
) -> None:
    model, cut = LAYOUTS[layout]
    model = {**model, "tied": tied}
    weights = tiny_weights(**model)
    assert (HEAD in weights) is not tied
    assert_same(compare(tiny_hf(**model), tiny_megatron(model=model, **cut)), weights)


# The legacy model has no norms on queries and keys.
@pytest.mark.parametrize(
    ("family", "names"),
    [(f, n) for f in ("mistral", "qwen2") for n in ("mcore", "te", "legacy")]
    + [("qwen3", "mcore"), ("qwen3", "te")],
)
def test_every_family_equals_its_source_in_every_spelling(
    tiny_hf: Make, tiny_weights: Any, tiny_megatron: Make, family: str, names: str
) -> None:
    model = {"family": family}
    cut = {"tp": 2, "pp": 2, "names": names}
    comparison = compare(tiny_hf(**model), tiny_megatron(model=model, **cut))
    assert_same(comparison, tiny_weights(**model))


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_folders_of_any_size_equal_their_source(data: st.DataObject, tmp_path: Path) -> None:
    def number(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    tp, pp, vpp = data.draw(st.sampled_from([1, 2, 4, 8])), number(1, 3), number(1, 2)
    counts = data.draw(
        st.lists(st.integers(0, 2), min_size=pp * vpp, max_size=pp * vpp).filter(any)
    )
    groups = tp * number(1, 2)
    model: dict[str, Any] = {
        "family": data.draw(st.sampled_from(["llama", "mistral", "qwen2"])),
        "layers": sum(counts),
        "groups": groups,
        "heads": groups * number(1, 2),
        "ffn": tp * number(1, 5),
        "vocab": number(1, 40),
        "tied": data.draw(st.booleans()),
        "dtype": data.draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32])),
        "shards": number(1, 3),
        "kind": data.draw(st.sampled_from(["safetensors", "bin"])),
    }
    model["head_dim"] = data.draw(st.sampled_from([2, 4, 6]))
    # Qwen2's head dimension is not in its config: it follows from the hidden size.
    model["hidden"] = model["heads"] * model["head_dim"]
    shutil.rmtree(tmp_path)
    weights = make_hf(tmp_path / "hf", **model)
    make_megatron(
        tmp_path / "megatron",
        weights,
        config_of(tmp_path / "hf"),
        tp=tp,
        pp=pp,
        vpp=vpp,
        layers_per_stage=counts,
        names=data.draw(st.sampled_from(["mcore", "te", "legacy"])),
        pad=data.draw(st.sampled_from(["repeat", "zeros", "random"])),
        divisible_by=number(1, 9),
        views=data.draw(st.booleans()),
        extra_state=data.draw(st.sampled_from(["none", "bytesio", "tensor", None])),
    )
    assert_same(compare(tmp_path / "hf", tmp_path / "megatron"), weights)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize(
    ("pad", "holds"),
    [("repeat", "copies of the last row"), ("zeros", "zeros"), ("random", "other values")],
)
def test_padding_is_described_and_not_judged(
    tiny_hf: Make, tiny_megatron: Make, pad: str, holds: str, tp: int, tied: bool
) -> None:
    model = {"heads": 8, "groups": 8, "tied": tied}
    megatron = tiny_megatron(model=model, tp=tp, divisible_by=16, pad=pad)
    comparison = compare(tiny_hf(**model), megatron)
    rows = {1: 3, 2: 3, 8: 67}[tp]  # 61 tokens, padded to 64 or 128
    assert comparison.summary.weights == "same"
    for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        assert comparison[name].padding_rows == rows
        assert comparison[name].note == f"{rows} padding rows in B: {holds}"
        assert comparison[name].shape_b == (61, 32)


def test_padding_on_both_sides_is_what_neither_has_a_token_for(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    one, other = (tiny_megatron(divisible_by=n, pad="zeros") for n in (8, 10))
    comparison = compare(one, other)
    assert comparison.summary.weights == "same"
    # 61 tokens in 64 and 70 rows: 64 are compared.
    assert comparison[EMBEDDING].shape_a == comparison[EMBEDDING].shape_b == (64, 32)
    assert comparison[EMBEDDING].note == "6 padding rows in B: zeros"


def test_a_row_that_the_reference_has_is_no_padding(tiny_hf: Make, tiny_megatron: Make) -> None:
    """A token's row in the place of padding is judged: the last one of A is compared."""
    model = {"vocab": 64}
    hf, megatron = tiny_hf(**model), tiny_megatron(model={"vocab": 61}, divisible_by=64)
    comparison = compare(hf, megatron)
    assert comparison[EMBEDDING].status == "differ"
    assert comparison.numbers(EMBEDDING).numel == 64 * 32


def test_a_converted_model_is_compared_in_its_own_names_and_shapes(
    tiny_hf: Make, tiny_megatron: Make, tiny_weights: Any
) -> None:
    _, b = open_pair(tiny_hf(), tiny_megatron(tp=2))
    shapes = {name: tuple(weight.shape) for name, weight in tiny_weights().items()}
    assert {name: tensor.shape for name, tensor in b.tensors.items()} == shapes
    assert b.nbytes == sum(weight.nbytes for weight in tiny_weights().values())


def test_pieces_say_which_box_of_which_shard_fills_which_box(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    _, b = open_pair(tiny_hf(), tiny_megatron(tp=2, pp=2))
    key = b.tensors["model.layers.1.self_attn.k_proj.weight"]
    # Two groups of two heads of eight rows: q, q, k, v; one group on each rank.
    assert [(p.rank, p.of, p.box) for p in key.pieces] == [
        (Rank(0, 1), ((16, 24), (0, 32)), ((0, 8), (0, 32))),
        (Rank(1, 1), ((16, 24), (0, 32)), ((8, 16), (0, 32))),
    ]
    assert {p.ref.name for p in key.pieces} == {"decoder.layers.0.self_attention.linear_qkv.weight"}
    down = b.tensors["model.layers.0.mlp.down_proj.weight"]
    assert [p.box for p in down.pieces] == [((0, 32), (0, 24)), ((0, 32), (24, 48))]
    norm = b.tensors["model.norm.weight"]
    (piece,) = norm.pieces
    assert [copy.rank for copy in piece.copies] == [Rank(1, 1)]


def test_a_tied_head_on_the_last_stage_is_a_copy_of_the_embedding(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    model = {"tied": True}
    _, b = open_pair(tiny_hf(**model), tiny_megatron(model=model, tp=2, pp=2))
    assert HEAD not in b.tensors
    copies = [copy for piece in b.tensors[EMBEDDING].pieces for copy in piece.copies]
    assert {copy.rank for copy in copies} == {Rank(0, 1), Rank(1, 1)}


def test_a_tied_head_on_disk_is_compared_with_the_embedding(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "a", tied=True)
    weights[HEAD] = weights[EMBEDDING].clone()
    folder = shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in folder.glob("model*"):
        file.unlink()
    write_plain(folder, weights)
    assert compare(tmp_path / "a", folder).summary.weights == "same"
    weights[HEAD][5, 7] += 1
    write_plain(folder, weights)
    comparison = compare(tmp_path / "a", folder)
    assert comparison.statuses == {HEAD: "differ"}
    assert comparison.numbers(HEAD).differing == 1


def test_tensors_come_in_the_order_in_which_the_model_runs(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    model = {"layers": 12, "family": "qwen2", "tied": False}
    for folder in (tiny_hf(**model), tiny_megatron(model=model, tp=2)):
        names = list(assemble(open_checkpoint(folder)).tensors)
        assert names[0] == EMBEDDING
        assert names[-2:] == ["model.norm.weight", HEAD]
        assert [n for n in names if n.endswith("input_layernorm.weight")] == [
            f"model.layers.{i}.input_layernorm.weight" for i in range(12)
        ]
        assert [n.removeprefix("model.layers.10.") for n in names if ".10." in n] == [
            "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
            "self_attn.v_proj.weight", "self_attn.o_proj.weight", "self_attn.q_proj.bias",
            "self_attn.k_proj.bias", "self_attn.v_proj.bias", "post_attention_layernorm.weight",
            "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
        ]  # fmt: skip


def test_names_that_no_rule_knows_come_last_with_their_numbers_in_order() -> None:
    names = ["z.10.w", "z.9.w", "model.norm.weight", "a.w", EMBEDDING]
    assert in_model_order(names, QWEN2) == [
        EMBEDDING, "model.norm.weight", "a.w", "z.9.w", "z.10.w",
    ]  # fmt: skip
    assert in_model_order(["b.10", "b.9", "a"], None) == ["a", "b.9", "b.10"]


def test_what_megatron_fuses_stays_together_expert_by_expert() -> None:
    parts = [f"{expert}.{part}" for part in ("w1", "w2", "w3") for expert in (10, 9)]
    prefix = "model.layers.0.block_sparse_moe.experts."
    ordered = in_model_order([f"{prefix}{part}.weight" for part in parts], MIXTRAL)
    assert [name.removeprefix(prefix).removesuffix(".weight") for name in ordered] == [
        "9.w1", "9.w3", "10.w1", "10.w3", "9.w2", "10.w2",
    ]  # fmt: skip


# Buffers that follow from the config are neither compared nor unmapped.


def inverse_frequencies(base: float) -> Tensor:
    return 1.0 / base ** (torch.arange(0, 8, 2).float() / 8)


@pytest.mark.parametrize(
    ("base", "verdict"),
    [(10000.0, "as a rotary base of 10000 makes it"), (20000.0, "not what a rotary base of 10000")],
)
def test_buffers_of_the_rotary_embedding_are_checked_against_the_config(
    tmp_path: Path, tiny_megatron: Make, copy_of: Make, base: float, verdict: str
) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    write_plain(
        tmp_path / "hf",
        weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": inverse_frequencies(base)},
    )
    megatron = copy_of(tiny_megatron())

    def add(state: dict[str, Any]) -> None:
        state["model"]["rotary_pos_emb.inv_freq"] = inverse_frequencies(base)

    edit_rank(rank_file(megatron, "00"), add)
    comparison = compare(tmp_path / "hf", megatron)
    assert_same(comparison, weights)
    for side in (comparison.a, comparison.b):
        (entry,) = side.derived
        assert entry.kind == "derived"
        assert verdict in entry.text
