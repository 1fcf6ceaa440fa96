"""A tensor that every rank of a stage holds is looked for on every one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted
from tests.support.pairs import compare, edit_rank, rank_file
from tests.support.qwen3_moe import write_qwen3_moe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NORM, PROJ = "model.layers.1.input_layernorm.weight", "model.layers.1.self_attn.o_proj.weight"
PLACES = [
    ("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    ("output_layer.weight", "lm_head.weight"),
    ("decoder.final_layernorm.weight", "model.norm.weight"),
    ("layers.1.input_layernorm.weight", NORM),
    ("layers.1.self_attention.linear_qkv.weight", "model.layers.1.self_attn.q_proj.weight"),
    ("layers.1.self_attention.linear_proj.weight", PROJ),
    ("layers.1.self_attention.q_layernorm.weight", "model.layers.1.self_attn.q_norm.weight"),
    ("layers.1.mlp.router.weight", "model.layers.1.mlp.gate.weight"),
]


def dropped(folder: Path, rank: str, ending: str) -> None:
    """Take out the one tensor of a rank whose name ends so."""

    def edit(state: dict[str, Any]) -> None:
        (name,) = [name for name in state["model"] if name.endswith(ending)]
        del state["model"][name]

    edit_rank(rank_file(folder, rank), edit)


@pytest.mark.parametrize(("ending", "name"), PLACES)
@pytest.mark.parametrize("tp", [1, 2])
def test_a_tensor_that_one_expert_rank_lacks_is_missed(
    tmp_path: Path, tp: int, ending: str, name: str
) -> None:
    write_qwen3_moe(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mg", "megatron", tp=tp, ep=2, names="mcore")
    assert compare(tmp_path / "hf", tmp_path / "mg").summary.verdict == "same"
    rank = max(tmp_path.glob("mg/*/mp_rank_*")).name.removeprefix("mp_rank_")
    dropped(tmp_path / "mg", rank, ending)
    found = compare(tmp_path / "hf", tmp_path / "mg")
    assert found.summary.verdict != "same"
    assert found.results[name].status == "error"
    error = assemble(open_checkpoint(tmp_path / "mg")).errors[name]
    assert error.kind == "missing-shard"
    assert "no " in error.text
    assert "other ranks have" in error.text
    with pytest.raises(UnsupportedLayout, match="cannot be read"):
        converted(tmp_path / "mg", tmp_path / "out", "hf")


def test_the_rank_is_named(tmp_path: Path) -> None:
    write_qwen3_moe(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mg", "megatron", pp=2, ep=2, names="mcore")
    dropped(tmp_path / "mg", "00_001_001", "linear_proj.weight")
    side = assemble(open_checkpoint(tmp_path / "mg"))
    assert {name: error.text for name, error in side.errors.items()} == {
        PROJ: "rank pp 1 ep 1 has no copy of it, other ranks have"
    }


def test_a_tied_copy_that_one_rank_of_the_last_stage_lacks(
    tiny_megatron: Callable[..., Path], copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(tiny_megatron(tp=2, pp=2, model={"tied": True}))
    assert not assemble(open_checkpoint(folder)).errors
    dropped(folder, "01_001", "output_layer.weight")
    side = assemble(open_checkpoint(folder))
    assert side.errors["model.embed_tokens.weight"].kind == "missing-shard"
