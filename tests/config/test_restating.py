"""Args written from config.json say what NVIDIA's say, and a config.json comes back from them."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.checkpoint import Parallelism
from ckptdiff.config.compare import compare_configs
from ckptdiff.config.restating import token_rows
from ckptdiff.errors import UnknownConfig
from ckptdiff.formats import open_checkpoint
from tests.config.test_compare import ARGS, DEEPSEEK, FAMILIES, LLAMA, MIXTRAL
from tests.support.families import MODELS
from tests.support.pairs import config_of
from tests.support.restated import (
    family_of,
    hf_side,
    lost_on_the_way,
    megatron_side,
    there_and_back,
    tiny_config,
    to_args,
    to_config,
    without_effect,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytestmark = pytest.mark.mostly_slow(one_in=4)


@pytest.mark.mostly_slow(one_in=27)
@pytest.mark.parametrize("model_type", MODELS)
def test_a_config_comes_back_from_args(model_type: str) -> None:
    config = tiny_config(model_type)
    back, _ = there_and_back(config)
    lost = lost_on_the_way(config, back)
    assert {
        name: values for name, values in lost.items() if name not in without_effect(config)
    } == {}


CANNOT = {
    "gemma": ["Activation", "Gemma multiplies"],
    "gemma2": ["Activation", "Gemma multiplies", "norms behind", "cap of attention scores"],
    "gemma3_text": ["Activation", "Gemma multiplies", "RoPE base of their own"],
    "olmo2": ["over all heads at once"],
    "gpt_neox": ["read the same input"],
}


@pytest.mark.parametrize("model_type", MODELS)
def test_args_of_every_family_are_read_as_they_were_meant(model_type: str) -> None:
    source = hf_side(tiny_config(model_type))
    args, notes = to_args(source)
    assert source.architecture is not None
    lines = compare_configs(source, megatron_side(args, source.architecture))
    wrong = {line.meaning for line in lines if line.status in ("conflict", "unknown")}
    says = CANNOT.get(model_type, [])
    assert wrong <= ({"Activation"} & set(says))
    for words in says:
        assert any(words in note for note in notes), notes


@pytest.mark.parametrize("family", FAMILIES)
def test_args_are_plain_values_that_need_no_class_but_namespace(family: str) -> None:
    args, _ = to_args(hf_side(FAMILIES[family][0]))
    assert all(_is_plain(value) for value in args.values())
    assert b"torch" not in pickle.dumps(args["padded_vocab_size"])
    assert "params_dtype" not in args


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def test_what_megatron_hard_codes_is_said() -> None:
    scaling: Any = {**LLAMA["rope_scaling"], "original_max_position_embeddings": 64}
    args, notes = to_args(hf_side({**LLAMA, "rope_scaling": scaling}))
    assert args["use_rope_scaling"] is True
    assert args["rope_scaling_factor"] == 8
    (note,) = [note for note in notes if "original_max_position_embeddings" in note]
    assert note.startswith(
        "rope_type is llama3 with original_max_position_embeddings 64: it scales"
    )
    _, notes = to_args(hf_side({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))
    assert any(note.startswith("rope_type is dynamic with factor 2") for note in notes)


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (LLAMA, {"rotary_base": 500000, "use_rope_scaling": True, "rope_scaling_factor": 8}),
        ({**LLAMA, "rope_theta": 1e4 + 0.5}, {"rotary_base": 10000.5}),
        (
            {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            {"rotary_seq_len_interpolation_factor": 4, "use_rope_scaling": False},
        ),
        ({**MIXTRAL, "sliding_window": 4096}, {"window_size": (4095, 0)}),
        (
            DEEPSEEK,
            {
                "moe_layer_freq": [0, 1, 1, 1],
                "rotary_scaling_factor": 40,
                "original_max_position_embeddings": 4096,
                "mtp_num_layers": 1,
                "moe_router_num_groups": 8,
                "moe_router_group_topk": 4,
                "moe_router_topk_scaling_factor": 2.5,
            },
        ),
    ],
)
def test_values_reach_the_args(config: dict[str, Any], given: dict[str, Any]) -> None:
    args, _ = to_args(hf_side(config))
    assert {name: args[name] for name in given} == given


def test_windows_of_some_layers_reach_the_args_and_come_back() -> None:
    config = {**tiny_config("gemma2"), "sliding_window": 16}
    args, _ = to_args(hf_side(config))
    assert args["window_size"] == (15, 0)
    assert args["window_attn_skip_freq"] == [1, 0]
    back, _ = there_and_back(config)
    assert back["sliding_window"] == 16
    assert back["layer_types"] == ["sliding_attention", "full_attention"]


def test_predictions_whose_tensors_are_not_there_are_not_promised() -> None:
    args, _ = to_args(hf_side(DEEPSEEK, ["model.layers.0.input_layernorm.weight"]))
    assert args["mtp_num_layers"] is None
    args, _ = to_args(hf_side(DEEPSEEK, ["model.layers.4.eh_proj.weight"]))
    assert args["mtp_num_layers"] == 1


@pytest.mark.parametrize(
    ("grid", "given", "said"),
    [
        (Parallelism(pp=2, vpp=4), {}, {"num_layers_per_virtual_pipeline_stage": 4}),
        (
            Parallelism(pp=3),
            {"first_layers": 10},
            {
                "decoder_first_pipeline_num_layers": 10,
                "virtual_pipeline_model_parallel_size": None,
            },
        ),
        (
            Parallelism(pp=2, vpp=3),
            {"layout": "Et|t*31L"},
            {
                "pipeline_model_parallel_layout": "Et|t*31L",
                "num_layers_per_virtual_pipeline_stage": None,
                "virtual_pipeline_model_parallel_size": 3,
            },
        ),
        (Parallelism(pp=2, vpp=3), {}, {"num_virtual_stages_per_pipeline_rank": 3}),
    ],
)
def test_the_cut_is_said(grid: Parallelism, given: dict[str, Any], said: dict[str, Any]) -> None:
    args, _ = to_args(hf_side(LLAMA), grid, **given)
    assert {name: args[name] for name in said} == said


def test_a_megatron_source_keeps_its_own_args_but_for_the_cut_and_the_objects() -> None:
    own = {
        **ARGS,
        "vocab_size": 128255,
        "tokenizer_type": "NullTokenizer",
        "model_type": "megatron.core.enums.ModelType(1)",
        "params_dtype": "torch.bfloat16",
        "exp_avg_dtype": "torch.float32",
        "load": "/somewhere",
        "window_size": [127, 0],
        "app_tag_run_version": "0.0.0",
        "lr": 0.25,
    }
    args, _ = to_args(
        megatron_side(own, family_of("llama")),
        Parallelism(tp=4),
        names="te",
        dtype="F16",
        ckpt_format="torch_dist",
        padded_vocab_size=129024,
    )
    assert (args["lr"], args["app_tag_run_version"]) == (0.25, "0.0.0")
    assert (args["vocab_size"], args["padded_vocab_size"]) == (128255, 129024)
    assert args["window_size"] == (127, 0)
    assert args["tensor_model_parallel_size"] == 4
    assert (args["fp16"], args["bf16"], args["transformer_impl"]) == (
        True,
        False,
        "transformer_engine",
    )
    gone = {"model_type", "params_dtype", "exp_avg_dtype", "load"}
    assert not gone & set(args)


@pytest.mark.parametrize(
    ("args", "rows", "noted"),
    [
        ({"vocab_size": 500, "padded_vocab_size": 512}, 500, False),
        # NullTokenizer has one id more than it is told.
        (
            {"vocab_size": 499, "padded_vocab_size": 512, "tokenizer_type": "NullTokenizer"},
            500,
            False,
        ),
        (
            {"vocab_size": 512, "padded_vocab_size": 512, "tokenizer_type": "NullTokenizer"},
            512,
            False,
        ),
        ({"vocab_size": None, "padded_vocab_size": 512}, 512, True),
        ({"vocab_size": 640, "padded_vocab_size": 512}, 512, True),
    ],
)
def test_rows_that_mean_a_token(args: dict[str, Any], rows: int, noted: bool) -> None:
    found, notes = token_rows(megatron_side({**ARGS, **args}, family_of("llama")))
    assert found == rows
    assert bool(notes) == noted


def test_without_any_size_of_the_vocabulary_there_is_an_error() -> None:
    args = {k: v for k, v in ARGS.items() if k != "padded_vocab_size"}
    with pytest.raises(UnknownConfig, match="how many rows"):
        token_rows(megatron_side(args, family_of("llama")))


def test_what_args_do_not_say_is_noted() -> None:
    silent = {k: v for k, v in ARGS.items() if k not in ("norm_epsilon", "rotary_base")}
    config, notes = to_config(megatron_side(silent, family_of("llama")))
    assert config["rms_norm_eps"] == 1e-5
    assert any("RoPE base 10000" in note and "Norm epsilon 1e-05" in note for note in notes)
    assert "bos_token_id" not in config
    assert any("bos_token_id" in note for note in notes)


@pytest.mark.parametrize(("name", "word"), [("torch_dtype", "BF16"), ("dtype", "BF16")])
def test_a_hugging_face_source_keeps_its_config_but_for_the_dtype(name: str, word: str) -> None:
    config = {**LLAMA, name: "float32", "text_config": {"torch_dtype": "float32"}, "odd": [1]}
    found, notes = to_config(hf_side(config), word)
    assert found == {**config, name: "bfloat16", "text_config": {"torch_dtype": "bfloat16"}}
    assert config[name] == "float32"
    assert notes == []
    packed = {**config, "quantization_config": {"quant_method": "fp8"}}
    found, notes = to_config(hf_side(packed), word)
    assert "quantization_config" not in found
    assert len(notes) == 1


def test_a_model_without_rules_cannot_be_restated() -> None:
    source = hf_side(LLAMA)
    with pytest.raises(UnknownConfig, match="no rules"):
        to_args(type(source)(source.checkpoint, None, None, {}, (), {}))


def test_metas_params_become_args_and_config_json(
    tmp_path: Path, tiny_weights: Any, tiny_hf: Any
) -> None:
    from tests.support.oracle_meta import make_meta

    original = config_of(tiny_hf())
    source = assemble(open_checkpoint(make_meta(tmp_path / "meta", tiny_weights(), original)))
    config, notes = to_config(source)
    assert lost_on_the_way(original, config) == {
        "max_position_embeddings": (original["max_position_embeddings"], None)
    }
    assert any("max_position_embeddings" in note for note in notes)
    args, _ = to_args(source)
    assert args["rotary_base"] == original["rope_theta"]
    a, b = assemble_pair(open_checkpoint(tiny_hf()), source.checkpoint)
    assert not [line for line in compare_configs(a, b) if line.status in ("conflict", "unknown")]


def test_metas_scaling_without_a_factor_is_assumed_and_said(
    tmp_path: Path, tiny_weights: Any, tiny_hf: Any
) -> None:
    from tests.support.oracle_meta import make_meta

    folder = make_meta(tmp_path / "meta", tiny_weights(), config_of(tiny_hf()))
    file = folder / "params.json"
    params = {**json.loads(file.read_text()), "use_scaled_rope": True}
    file.write_text(json.dumps(params))
    source = assemble(open_checkpoint(folder))
    config, notes = to_config(source)
    assert config["rope_scaling"]["factor"] == 32  # of a Llama this small
    assert "params.json does not say by what RoPE is scaled; 32 is taken" in notes
    assert to_args(source)[0]["rope_scaling_factor"] == 32
    file.write_text(json.dumps({**params, "rope_scaling_factor": 16, "sliding_window": 9}))
    config, notes = to_config(assemble(open_checkpoint(folder)))
    assert config["rope_scaling"]["factor"] == 16
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 9)
    assert not any("is taken" in note for note in notes)


# Entries that transformers reads otherwise: classes that args do not tell apart, ...
OTHERWISE = {
    "glm4_moe_lite": {"architectures", "model_type"},
    "olmo3": {"architectures", "model_type", "rope_parameters"},
    "llama3": {"rope_parameters"},  # ... the original length, which Megatron hard-codes,
    "gpt2": {"n_inner"},  # ... and four times the hidden size, spelled out.
    # A window longer than any sequence: transformers' own, where config.json says nothing of one.
    "mistral": {"sliding_window"},
    "exaone4": {"sliding_window", "layer_types"},
    "gpt_neox": {"use_parallel_residual"},  # which Megatron has not: the way there says so
    # Of the class, and no row of so small a vocabulary.
    "phi3": {"pad_token_id"},
    "smollm3": {"pad_token_id"},
}


@pytest.mark.oracle
def test_transformers_reads_the_rebuilt_config_as_the_original(
    ask_oracle: Callable[..., dict[str, Any]],
) -> None:
    pairs = {}
    for model_type in MODELS:
        config = {**tiny_config(model_type), "torch_dtype": "bfloat16"}
        pairs[model_type] = [config, there_and_back(config)[0]]
    check_transformers(ask_oracle, pairs)


@pytest.mark.oracle
def test_transformers_reads_rebuilt_configs_of_real_models_as_the_originals(
    corpus: Path, ask_oracle: Callable[..., dict[str, Any]]
) -> None:
    pairs = {}
    for folder in sorted(corpus.glob("*/hf")):
        config = {**config_of(folder), "torch_dtype": "bfloat16"}
        pairs[folder.parent.name] = [config, there_and_back(config)[0]]
    check_transformers(ask_oracle, pairs)


def check_transformers(
    ask_oracle: Callable[..., dict[str, Any]], pairs: dict[str, list[dict[str, Any]]]
) -> None:
    found = ask_oracle("oracle_configs", pairs)
    assert set(found) == set(pairs)
    wrong = {
        name: {key: values for key, values in odd.items() if key not in OTHERWISE.get(name, set())}
        for name, odd in found.items()
    }
    assert {name: odd for name, odd in wrong.items() if odd} == {}


@pytest.mark.oracle
def test_megatron_core_builds_its_configuration_from_the_args(
    ask_oracle: Callable[..., dict[str, Any]],
) -> None:
    args = {model_type: to_args(hf_side(tiny_config(model_type)))[0] for model_type in MODELS}
    found = ask_oracle("oracle_args", args)
    assert found == {model_type: {} for model_type in MODELS}


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("llama", {"rope_theta": 10000.0}, []),
        ("llama", {"rope_theta": 500000.0}, ["rotary_base is 500000"]),
        ("mistral", {"rope_theta": 10000.0, "sliding_window": 8}, ["there is a sliding window"]),
        ("mistral", {"rope_theta": 10000.0, "sliding_window": None}, []),
    ],
)
def test_megatrons_legacy_model_has_one_base_and_no_window(
    model_type: str, changes: dict[str, Any], said: list[str]
) -> None:
    source = hf_side({**tiny_config(model_type), "rope_scaling": None, **changes})
    plain = to_args(source)[1]
    found = [one for one in to_args(source, names="legacy")[1] if one not in plain]
    assert [one.partition(":")[0] for one in found] == said
