"""The names that are chosen where none are asked for, and what has no name in Megatron."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.conversion.naming_scheme import scheme_of
from ckptdiff.conversion.plan import Target
from tests.support.conversions import converted, hf_tensors, rank_tensors
from tests.support.restated import hf_side, tiny_config
from tests.support.small_models import write_folder, write_model

if TYPE_CHECKING:
    from pathlib import Path

# Whose layers Megatron builds of Transformer Engine's parts alone, or whose norms scale by one more
# than their weight, which its local RMSNorm refuses and its local LayerNorm needs Apex for.
OF_ENGINE = (
    *("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "nemotron_h"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
    *("nemotron", "gemma", "gemma2", "gemma3_text"),
)
LOCAL = ("llama", "qwen3", "mixtral", "glm4_moe", "gpt2", "gpt_neox", "olmo2", "gpt_oss", "phi3")


@pytest.mark.parametrize("model_type", [*OF_ENGINE, *LOCAL])
def test_the_names_are_of_layers_that_compute_the_model(model_type: str) -> None:
    names, _ = scheme_of(hf_side(tiny_config(model_type)), Target("megatron"), [], [])
    assert names == ("te" if model_type in OF_ENGINE else "mcore")
    asked, _ = scheme_of(
        hf_side(tiny_config(model_type)), Target("megatron", names="mcore"), [], []
    )
    assert asked == "mcore"


def test_norms_are_fused_where_they_scale_by_one_more(tmp_path: Path) -> None:
    write_model(tmp_path / "hf", "nemotron", hidden_act="relu2", tie_word_embeddings=False)
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", "megatron")
    names = [name.split(" ")[-1] for name in rank_tensors(tmp_path / "out")]
    assert "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight" in names
    assert plan.cannot == ()
    assert plan.launch is not None
    assert "--transformer-impl transformer_engine" in plan.launch


def _without_shared_expert(folder: Path) -> dict[str, torch.Tensor]:
    """Write a DeepSeek-V3 of one layer, as transformers does: shared experts have 0 rows."""
    config = {
        **tiny_config("deepseek_v3"),
        "num_hidden_layers": 1,
        "first_k_dense_replace": 0,
        "n_shared_experts": 0,
        "tie_word_embeddings": False,
    }
    front = "model.layers.0."
    attention = f"{front}self_attn."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (64, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (64, 32),
        f"{front}input_layernorm.weight": (32,),
        f"{front}post_attention_layernorm.weight": (32,),
        f"{attention}q_a_proj.weight": (12, 32),
        f"{attention}q_a_layernorm.weight": (12,),
        f"{attention}q_b_proj.weight": (40, 12),
        f"{attention}kv_a_proj_with_mqa.weight": (12, 32),
        f"{attention}kv_a_layernorm.weight": (8,),
        f"{attention}kv_b_proj.weight": (64, 8),
        f"{attention}o_proj.weight": (32, 40),
        f"{front}mlp.gate.weight": (4, 32),
        f"{front}mlp.gate.e_score_correction_bias": (4,),
    }
    for part, rows in (*((f"experts.{n}", 20) for n in range(4)), ("shared_experts", 0)):
        shapes |= {f"{front}mlp.{part}.{x}_proj.weight": (rows, 32) for x in ("gate", "up")}
        shapes[f"{front}mlp.{part}.down_proj.weight"] = (32, rows)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    write_folder(folder, config, tensors)
    return tensors


@pytest.mark.parametrize("to", ["megatron", "torch_dist"])
def test_tensors_without_an_element_are_left_out_with_a_note(to: str, tmp_path: Path) -> None:
    tensors = _without_shared_expert(tmp_path / "hf")
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", to)  # type: ignore[arg-type]
    note = next(note for note in plan.notes if "no element" in note)
    assert note.startswith("3 tensors hold no element and are left out: model.layers.0.mlp.shared")
    assert not plan.left
    converted(tmp_path / "out", tmp_path / "back", "hf")
    back = hf_tensors(tmp_path / "back")
    full = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    assert back.keys() == full.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in full.items())
