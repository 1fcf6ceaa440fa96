"""What a program does not build or read adds nothing: biases without a switch, stray fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.errors import MissingShard, UnknownConfig, UnsupportedLayout
from ckptdiff.forward import hf_config
from tests.support.conversions import converted
from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.pairs import config_of, edit_rank
from tests.support.small_models import VOCABULARY, write_folder, write_model

if TYPE_CHECKING:
    from pathlib import Path

IDS = tokens(9, VOCABULARY)
CASES: list[tuple[str, tuple[str, ...], dict[str, bool], str]] = [
    # What Megatron has no switch for alone, and the bias that it leaves away.
    ("llama", ("qkv", "output"), {"attention_bias": True}, "o_proj.bias"),
    ("qwen3", ("qkv", "output"), {"attention_bias": True}, "o_proj.bias"),
    ("llama", ("mlp",), {"mlp_bias": True}, "_proj.bias"),
    ("nemotron", ("mlp",), {"mlp_bias": True}, "_proj.bias"),
]


@pytest.mark.parametrize(("family", "biases", "switches", "left"), CASES)
@pytest.mark.parametrize("tp", [1, 2])
def test_megatron_adds_no_bias_that_its_args_do_not_switch_on(
    family: str,
    biases: tuple[str, ...],
    switches: dict[str, Any],
    left: str,
    tp: int,
    tmp_path: Path,
) -> None:
    held = write_model(tmp_path / "hf", family, biases=biases, **switches)
    converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=tp, names="mcore")
    without = {n: torch.zeros_like(t) if n.endswith(left) else t for n, t in held.items()}
    write_folder(tmp_path / "zeros", config_of(tmp_path / "hf"), without)
    hf, megatron = free_run(tmp_path / "hf", tmp_path / "out", IDS, "fp32")
    zeros, _ = free_run(tmp_path / "zeros", tmp_path / "zeros", IDS, "fp32")
    assert (megatron[:, :VOCABULARY] - zeros).abs().max() < 1e-5
    assert (hf - zeros).abs().max() > 0.1
    assert compare_logits(tmp_path / "hf", tmp_path / "out", IDS).verdict == "weights-or-config"


def test_megatron_adds_all_biases_that_its_args_switch_on(tmp_path: Path) -> None:
    switches = {"attention_bias": True, "mlp_bias": True}
    held = write_model(tmp_path / "hf", "llama", biases=("qkv", "output", "mlp"), **switches)
    converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=2, names="mcore")
    hf, megatron = free_run(tmp_path / "hf", tmp_path / "out", IDS, "fp32")
    assert (megatron[:, :VOCABULARY] - hf).abs().max() < 1e-5
    for part in ("q_proj", "o_proj", "gate_proj", "down_proj"):
        zeros = {n: t * 0 if n.endswith(f"{part}.bias") else t for n, t in held.items()}
        write_folder(tmp_path / part, config_of(tmp_path / "hf"), zeros)
        assert (free_run(tmp_path / part, tmp_path / part, IDS, "fp32")[0] - hf).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_transformers_adds_no_bias_that_its_config_does_not_switch_on(
    family: str, tmp_path: Path
) -> None:
    switches = {"attention_bias": True, "mlp_bias": True} if family == "mistral" else {}
    held = write_model(tmp_path / "biased", family, biases=("qkv", "output", "mlp"), **switches)
    plain = {name: t for name, t in held.items() if "proj.bias" not in name}
    write_folder(tmp_path / "plain", config_of(tmp_path / "biased"), plain)
    biased, unbiased = free_run(tmp_path / "biased", tmp_path / "plain", IDS, "fp32")
    assert torch.equal(biased, unbiased)


STRAYS: list[dict[str, Any]] = [
    {"partial_rotary_factor": 0.5},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    {"sliding_window": 3},
    {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
]


@pytest.mark.parametrize("stray", STRAYS, ids=str)
def test_a_field_that_the_class_does_not_read_changes_no_logit(
    stray: dict[str, Any], tmp_path: Path
) -> None:
    write_model(tmp_path / "plain", "llama")
    write_model(tmp_path / "odd", "llama", **stray)
    assert torch.equal(*free_run(tmp_path / "plain", tmp_path / "odd", IDS, "fp32"))
    write_model(tmp_path / "half", "nemotron", partial_rotary_factor=0.5)
    write_model(tmp_path / "whole", "nemotron", partial_rotary_factor=1.0)
    half, whole = free_run(tmp_path / "half", tmp_path / "whole", IDS, "fp32")
    assert (half - whole).abs().max() > 0.01  # a class that reads it


def test_the_old_word_of_gemmas_activation_means_the_tanh_form(tmp_path: Path) -> None:
    write_model(tmp_path / "old", "gemma", hidden_act="gelu")
    write_model(tmp_path / "new", "gemma", hidden_act="gelu_pytorch_tanh")
    assert torch.equal(*free_run(tmp_path / "old", tmp_path / "new", IDS, "fp32"))


def test_a_list_of_layers_makes_a_mistral_a_ministral(tmp_path: Path) -> None:
    """As transformers' AutoConfig has it; its Mistral has one window for all layers."""
    window: Any = {"sliding_window": 3}
    write_model(tmp_path / "a", "mistral", **window)
    for kind, same in (("sliding_attention", True), ("full_attention", False)):
        write_model(tmp_path / kind, "mistral", **window, layer_types=["sliding_attention", kind])
        logits = free_run(tmp_path / "a", tmp_path / kind, IDS, "fp32")
        assert torch.equal(*logits) == same
    found = compare_logits(tmp_path / "a", tmp_path / "full_attention", IDS)
    assert found.verdict == "weights-or-config"
    assert "Windowed layers" in found.sentence


@pytest.mark.parametrize("pp", [1, 2])
def test_a_tied_head_is_the_embedding_of_its_stage(pp: int, tmp_path: Path) -> None:
    """Where the embedding is on another stage, the last one has a copy, which counts there."""
    write_model(tmp_path / "hf", "llama")
    converted(tmp_path / "hf", tmp_path / "out", "megatron", pp=pp)
    for file in (tmp_path / "out").rglob("model_optim_rng.pt"):
        edit_rank(file, lambda s: setattr(s["args"], "untie_embeddings_and_output_weights", False))
    hf, megatron = free_run(tmp_path / "hf", tmp_path / "out", IDS, "fp32")
    assert ((hf - megatron[:, :VOCABULARY]).abs().max() < 1e-5) == (pp == 2)


def test_norms_that_a_config_switches_on_have_to_be_there(tmp_path: Path) -> None:
    """A class with norms of queries and keys normalises, with ones if the file has no weights."""
    held = write_model(tmp_path / "qwen3", "qwen3")
    without = {name: t for name, t in held.items() if "q_norm" not in name and "k_norm" not in name}
    write_folder(tmp_path / "without", config_of(tmp_path / "qwen3"), without)
    with pytest.raises(MissingShard, match="q_norm"):
        compare_logits(tmp_path / "without", tmp_path / "without", IDS)


def test_beside_a_text_config_the_outer_tie_counts_and_no_outer_mask() -> None:
    """As transformers' Gemma3ForConditionalGeneration computes them."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    inner = {**sizes, "model_type": "gemma3_text", "tie_word_embeddings": True}
    whole = {"model_type": "gemma3", "text_config": inner}
    assert hf_config.read({**whole, "is_causal": False}) == hf_config.read(whole)
    assert hf_config.read(whole).tied
    assert not hf_config.read({**whole, "tie_word_embeddings": False}).tied


TEXTS: list[dict[str, Any]] = [
    {"rope_theta": "10000.0"},
    {"tie_word_embeddings": "False"},
    {"attention_bias": "False"},
    {"rope_parameters": {"rope_type": "default", "rope_theta": "10000.0"}},
]


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_a_number_or_switch_that_is_text_is_refused(text: dict[str, Any], tmp_path: Path) -> None:
    """As transformers 5 refuses it; what no class reads may be anything."""
    write_model(tmp_path / "a", "llama", sliding_window="none", use_sliding_window="no")
    assert compare_logits(tmp_path / "a", tmp_path / "a", IDS).verdict == "arithmetic"
    write_model(tmp_path / "b", "llama", **text)
    name = "rope_theta" if "rope_parameters" in text else next(iter(text))
    with pytest.raises(UnknownConfig, match=rf"{name} is .* a text"):
        compare_logits(tmp_path / "a", tmp_path / "b", IDS)


def test_norms_that_no_layer_has_are_of_another_family(tmp_path: Path) -> None:
    write_model(tmp_path / "llama", "llama")
    converted(tmp_path / "llama", tmp_path / "out", "megatron")
    held = write_model(tmp_path / "gemma", "gemma")
    config = {**config_of(tmp_path / "gemma"), "model_type": "gemma2"}
    norm = held["model.norm.weight"]
    norms = {
        f"model.layers.{layer}.{part}_feedforward_layernorm.weight": norm.clone()
        for layer in range(2)
        for part in ("pre", "post")
    }
    write_folder(tmp_path / "gemma2", config, {**held, **norms})
    for other in ("llama", "out"):
        with pytest.raises(UnsupportedLayout, match=r"no layer of B .* of another family"):
            compare_logits(tmp_path / "gemma2", tmp_path / other, IDS)
    write_folder(tmp_path / "broken", config, held)
    with pytest.raises(MissingShard, match="layernorm"):
        compare_logits(tmp_path / "gemma2", tmp_path / "broken", IDS)
