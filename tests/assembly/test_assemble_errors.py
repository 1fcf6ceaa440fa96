"""What cannot be put together is an error of the tensors concerned, and of no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import compare, edit_rank, rank_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_shard_of_the_wrong_size_is_an_error_of_its_tensors_alone(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def shorten(state: dict[str, Any]) -> None:
        name = "decoder.layers.1.mlp.linear_fc1.weight"
        state["model"][name] = state["model"][name][:-1].clone()

    edit_rank(rank_file(megatron, "01"), shorten)
    comparison = compare(tiny_hf(), megatron)
    assert comparison.statuses == {
        "model.layers.1.mlp.gate_proj.weight": "error",
        "model.layers.1.mlp.up_proj.weight": "error",
    }
    error = str(comparison["model.layers.1.mlp.up_proj.weight"].error)
    assert "mp_rank_01" in error
    assert "[47, 32]" in error
    assert comparison.summary.has_errors


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("decoder.layers.0.mlp.linear_fc2.weight", ["model.layers.0.mlp.down_proj.weight"]),
        ("embedding.word_embeddings.weight", [EMBEDDING]),
        ("output_layer.weight", [HEAD]),
    ],
)
def test_a_shard_that_one_rank_lacks_is_an_error_that_names_the_rank(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, name: str, lost: list[str]
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    edit_rank(rank_file(megatron, "01"), lambda state: state["model"].pop(name))
    comparison = compare(tiny_hf(), megatron)
    assert comparison.statuses == dict.fromkeys(lost, "error")
    assert "TP rank 1 of 2" in str(comparison[lost[0]].error)


def test_a_norm_that_one_rank_lacks_is_an_error(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    edit_rank(
        rank_file(megatron, "01"),
        lambda state: state["model"].pop("decoder.final_layernorm.weight"),
    )
    assert compare(tiny_hf(), megatron).statuses == {"model.norm.weight": "error"}


@pytest.mark.parametrize("change", ["dtype", "shape"])
def test_a_replica_of_another_dtype_or_shape_is_an_error(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, change: str
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def alter(state: dict[str, Any]) -> None:
        model, name = state["model"], "decoder.final_layernorm.weight"
        model[name] = model[name].float() if change == "dtype" else model[name][:-1].clone()

    edit_rank(rank_file(megatron, "01"), alter)
    comparison = compare(tiny_hf(), megatron)
    assert comparison.statuses == {"model.norm.weight": "error"}
    assert "mp_rank_01" in str(comparison["model.norm.weight"].error)


def test_shards_of_two_dtypes_are_an_error(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def widen(state: dict[str, Any]) -> None:
        state["model"]["output_layer.weight"] = state["model"]["output_layer.weight"].float()

    edit_rank(rank_file(megatron, "01"), widen)
    comparison = compare(tiny_hf(), megatron)
    assert comparison.statuses == {HEAD: "error"}
    assert "BF16, F32" in str(comparison[HEAD].error)


@pytest.mark.parametrize("hole", [0, 1])
def test_layers_with_a_gap_are_refused(tiny_megatron: Make, copy_of: Make, hole: int) -> None:
    megatron = copy_of(tiny_megatron(model={"layers": 3}))

    def drop(state: dict[str, Any]) -> None:
        for name in [name for name in state["model"] if f"layers.{hole}." in name]:
            del state["model"][name]

    edit_rank(rank_file(megatron, "00"), drop)
    with pytest.raises(UnsupportedLayout, match="counts them from 0"):
        assemble(open_checkpoint(megatron))


def test_ranks_of_a_stage_with_different_layers_are_refused(
    tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def drop(state: dict[str, Any]) -> None:
        for name in [name for name in state["model"] if "layers.1." in name]:
            del state["model"][name]

    edit_rank(rank_file(megatron, "01"), drop)
    with pytest.raises(UnsupportedLayout, match=r"tp 1 of stage 0 holds layers \[0\]"):
        assemble(open_checkpoint(megatron))


def without_args(state: dict[str, Any]) -> None:
    del state["args"]


def test_a_file_without_args_borrows_the_config_of_the_other_side(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, tiny_weights: Any
) -> None:
    megatron = copy_of(tiny_megatron())
    edit_rank(rank_file(megatron, "00"), without_args)
    comparison = compare(tiny_hf(), megatron)
    assert comparison.summary.counts["same"] == len(tiny_weights())
    assert comparison.summary.weights == "same"
    alone = assemble(open_checkpoint(megatron))
    assert alone.tensors.keys() == alone.checkpoint.shards[0].tensors.keys()
    assert any("how many heads" in note for note in alone.notes)


def test_a_model_of_no_known_family_is_taken_under_its_own_names(
    tiny_megatron: Make, copy_of: Make
) -> None:
    megatron = copy_of(tiny_megatron())

    def rename(state: dict[str, Any]) -> None:
        state["model"] = {name.replace(".", "/"): t for name, t in state["model"].items()}

    edit_rank(rank_file(megatron, "00"), rename)
    side = assemble(open_checkpoint(megatron))
    assert side.architecture is None
    assert side.tensors.keys() == side.checkpoint.shards[0].tensors.keys()
    assert not side.unmapped
    assert any("no rules" in note for note in side.notes)


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ({"make_vocab_size_divisible_by": 8}, "same"),  # 61 tokens fill 64 rows
        ({"make_vocab_size_divisible_by": None}, "same"),  # some divisor leaves 3 rows
        ({"make_vocab_size_divisible_by": 1}, "shape"),  # at TP 2, 61 tokens fill 62 rows
        ({"make_vocab_size_divisible_by": 24}, "shape"),  # to 96 rows
        ({"make_vocab_size_divisible_by": 1, "vocab_size": 61, "padded_vocab_size": 64}, "same"),
        ({"make_vocab_size_divisible_by": 1, "vocab_size": 63, "padded_vocab_size": 64}, "shape"),
    ],
)
def test_rows_that_padding_does_not_explain_are_no_padding(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, args: dict[str, int | None], status: str
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))

    def change(state: dict[str, Any]) -> None:
        for name in ("make_vocab_size_divisible_by", "vocab_size", "padded_vocab_size"):
            vars(state["args"]).pop(name, None)
        vars(state["args"]).update({k: v for k, v in args.items() if v is not None})

    for rank in ("00", "01"):
        edit_rank(rank_file(megatron, rank), change)
    found = compare(tiny_hf(), megatron)
    assert found["model.embed_tokens.weight"].status == status
    assert found.summary.weights == ("same" if status == "same" else "differ")
