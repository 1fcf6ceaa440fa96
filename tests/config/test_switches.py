"""Switches of transformers' classes: what each means to Megatron, and what is not read at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ckptdiff.arch import ARCHITECTURES
from ckptdiff.arch.without_place import why_without_place
from ckptdiff.config.compare import compare_sides, config_side
from ckptdiff.config.fields import FIELDS, ConfigSide
from ckptdiff.config.fields.unread import _UNREAD, as_read
from ckptdiff.config.model import from_huggingface
from tests.support.restated import hf_side, megatron_side, tiny_config, to_args, to_config

NO_WINDOW: dict[str, Any] = {"sliding_window": None, "layer_types": ["full_attention"] * 4}
TURNS = [*["sliding_attention"] * 3, "full_attention"]


def restated(model_type: str, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    return to_args(hf_side({**tiny_config(model_type), **changes}))


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("gpt_neox", {"use_parallel_residual": True}, "use_parallel_residual is true"),
        ("gpt_neox", {}, "Parallel residual is true"),
        ("gpt_neox", {"use_parallel_residual": False}, None),
        ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}, "Linear biases"),
        ("gpt_oss", {"attention_bias": False}, "Linear biases is true"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8"),
        ("deepseek_v3", {"attention_bias": True}, "attention_bias is true"),
        ("deepseek_v2", {"mlp_bias": True}, "Linear biases is true"),
        ("deepseek_v3", {"mlp_bias": True}, None),  # its class does not read it
        ("glm4_moe", {"attention_bias": False}, None),
        ("glm4_moe", {"attention_bias": True}, None),
        ("qwen2_moe", {"qkv_bias": False}, None),
        ("nemotron_h", {"use_conv_bias": False}, "use_conv_bias is false"),
        ("nemotron_h", {"use_bias": True}, "use_bias is true"),
        ("nemotron_h", {"mlp_bias": True}, "Linear biases is true"),
        ("nemotron_h", {"attention_bias": True}, None),  # nor does this
        ("qwen3_next", {"attention_bias": True}, "Attention output bias is true"),
    ],
)
def test_what_a_switch_is_to_megatron(
    model_type: str, changes: dict[str, Any], said: str | None
) -> None:
    _, plain = restated(model_type)
    if model_type == "gpt_neox":
        _, plain = restated(model_type, use_parallel_residual=False)
    _, found = restated(model_type, **changes)
    more = [one for one in found if one not in plain and " is " in one]
    assert any(one.startswith(said) for one in more) if said else not more


@pytest.mark.parametrize("on", [True, False])
def test_biases_of_the_qkv_projection_are_a_flag(on: bool) -> None:
    for model_type, name in (("glm4_moe", "attention_bias"), ("qwen2_moe", "qkv_bias")):
        args, _ = restated(model_type, **{name: on})
        assert (args["add_qkv_bias"], args["add_bias_linear"]) == (on, False)
        source = hf_side(tiny_config(model_type))
        assert source.architecture is not None
        back, _ = to_config(megatron_side(args, source.architecture))
        assert back[name] is on


def test_gpt_neox_comes_back_without_parallel_residual() -> None:
    source = hf_side({**tiny_config("gpt_neox"), "use_parallel_residual": False})
    args, _ = to_args(source)
    assert source.architecture is not None
    back, _ = to_config(megatron_side(args, source.architecture))
    assert back["use_parallel_residual"] is False


@pytest.mark.parametrize(
    ("changes", "without_rope", "window"),
    [
        (NO_WINDOW, None, None),
        ({"sliding_window": 8, "layer_types": TURNS}, [0, 0, 0, 1], (7, 0)),
        ({"sliding_window": 8}, [0, 0, 0, 1], (7, 0)),
        ({"sliding_window": 8, "sliding_window_pattern": 2}, [0, 1, 0, 1], (7, 0)),
        ({"sliding_window": 4096, "layer_types": TURNS}, [0, 0, 0, 1], None),
    ],
    ids=str,
)
def test_layers_of_exaone_4_without_a_window_do_not_rotate(
    changes: dict[str, Any], without_rope: list[int] | None, window: tuple[int, int] | None
) -> None:
    config = {**tiny_config("exaone4"), "num_hidden_layers": 4, **changes}
    source = hf_side(config)
    args, _ = to_args(source)
    assert (args["no_rope_freq"], args["window_size"]) == (without_rope, window)
    assert source.architecture is not None
    megatron = megatron_side(args, source.architecture)
    back, notes = to_config(megatron)
    assert [one for one in notes if "Layers without" in one or "indow" in one] == []
    full = without_rope or [1] * 4
    kinds = ["full_attention" if one else "sliding_attention" for one in full]
    assert back["layer_types"] == kinds
    assert (back["sliding_window"] is None) is (without_rope is None)
    lines = compare_sides(config_side(source), config_side(hf_side(back)))
    assert [line.meaning for line in lines if line.status == "conflict"] == []


@pytest.mark.parametrize(
    ("changes", "without_rope", "window"),
    [
        ({}, [0, 0, 0, 1], None),
        ({"no_rope_layer_interval": 2}, [0, 1, 0, 1], None),
        ({"no_rope_layers": [1, 0, 1, 1, 0, 0]}, [0, 1, 0, 0], None),  # a longer list
        ({"no_rope_layers": [1, 1, 1, 1]}, None, None),
        ({"sliding_window": 8}, [0, 0, 0, 1], None),
        ({"sliding_window": 8, "use_sliding_window": True}, [0, 0, 0, 1], (7, 0)),
        ({"sliding_window": 8, "layer_types": TURNS}, [0, 0, 0, 1], (7, 0)),
    ],
    ids=str,
)
def test_layers_of_smollm3_that_do_not_rotate_may_have_a_window(
    changes: dict[str, Any], without_rope: list[int] | None, window: tuple[int, int] | None
) -> None:
    tiny = {**tiny_config("smollm3"), "num_hidden_layers": 4}
    del tiny["no_rope_layer_interval"]
    source = hf_side({**tiny, **changes})
    args, _ = to_args(source)
    assert (args["no_rope_freq"], args["window_size"]) == (without_rope, window)
    assert source.architecture is not None
    back, notes = to_config(megatron_side(args, source.architecture))
    assert [one for one in notes if "Layers without" in one or "indow" in one] == []
    assert back["no_rope_layers"] == [1 - one for one in without_rope or [0] * 4]
    lines = compare_sides(config_side(source), config_side(hf_side(back)))
    assert [line.meaning for line in lines if line.status == "conflict"] == []


@pytest.mark.parametrize(("model_type", "status"), [("minimax_m2", None), ("olmoe", "conflict")])
def test_megatron_bridge_norms_the_queries_of_minimax_m2_without_the_arg(
    model_type: str, status: str | None
) -> None:
    source = hf_side(tiny_config(model_type))
    args, _ = to_args(source)
    assert source.architecture is not None
    side = config_side(megatron_side({**args, "qk_layernorm": False}, source.architecture))
    side = replace(side, tensors=frozenset({"model.layers.0.self_attn.q_norm.weight"}))
    lines = compare_sides(config_side(source), side)
    found = [line.status for line in lines if line.meaning == "Q/K norm"]
    assert ("conflict" in found) is (status == "conflict")


def test_a_megatron_model_that_rotates_in_all_layers_is_no_windowed_exaone_4() -> None:
    source = hf_side({**tiny_config("exaone4"), "num_hidden_layers": 4, "sliding_window": 8})
    args, _ = to_args(source)
    assert source.architecture is not None
    for freq in (None, [0, 0, 1, 0]):
        _, notes = to_config(megatron_side({**args, "no_rope_freq": freq}, source.architecture))
        assert any(one.startswith(("Layers without RoPE", "Windowed layers")) for one in notes)
    for same in (4, [0, 0, 0, 1]):
        megatron = megatron_side({**args, "no_rope_freq": same}, source.architecture)
        lines = compare_sides(config_side(source), config_side(megatron))
        assert [line.meaning for line in lines if line.status == "conflict"] == []


def test_fields_that_are_not_read_are_of_families_that_there_are() -> None:
    names = {family.name for family in ARCHITECTURES}
    assert {name for _, families in _UNREAD for name in families} <= names


def test_gpt2_has_the_inner_size_of_its_own_field() -> None:
    config = {**tiny_config("gpt2"), "intermediate_size": 48, "head_dim": 3}
    assert from_huggingface(config, family="gpt2").ffn_hidden_size == 128
    assert from_huggingface({**config, "n_inner": 40}, family="gpt2").ffn_hidden_size == 40
    assert from_huggingface(config, family="gpt2").kv_channels == 8
    args, _ = to_args(hf_side({**config, "n_inner": 40}))
    assert (args["ffn_hidden_size"], args["kv_channels"]) == (40, 8)
    assert as_read(config, None) is config


def test_what_has_no_name_in_megatron_is_said_once_in_its_terms() -> None:
    names = [
        *(f"model.layers.{i}.self_attn.kv_a_proj_with_mqa.bias" for i in range(2)),
        "model.layers.1.mlp.shared_experts.up_proj.bias",
        "backbone.layers.1.mixer.in_proj.bias",
        "model.layers.1.self_attn.o_proj.bias",
    ]
    found = why_without_place(names)
    assert [one.split(" has no ")[0].split(" have ")[0] for one in found] == [
        "Megatron's latent attention",
        "Megatron's shared experts",
        "Megatron's MambaMixer",
    ]


@pytest.mark.parametrize(("tensor", "on"), [("mixer.A_log", False), ("linear_attn.A_log", True)])
def test_a_tensor_that_mamba_layers_have_too_shows_no_delta_net(tensor: str, on: bool) -> None:
    side = ConfigSide("megatron", {}, "nemotron_h", frozenset({tensor}))
    field = next(one for one in FIELDS if one.name == "Gated DeltaNet")
    found = field.read(side)
    assert found is not None
    assert found.value is on
