"""Args written from config.json say what NVIDIA's say, and a config.json comes back from them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from families import MODELS
from pairs import config_of, open_pair
from restated import (
    family_of,
    hf_side,
    megatron_side,
    there_and_back,
    tiny_config,
    to_args,
)
from test_config_diff import ARGS, CASES, DEEPSEEK, FAMILIES, LLAMA, LOST_BASE, MIXTRAL, expected

from ckptdiff.assemble import assemble, assemble_pair
from ckptdiff.config_diff import compare_configs
from ckptdiff.errors import UnknownConfig
from ckptdiff.formats import open_checkpoint
from ckptdiff.restate import flags_to_give, huggingface_config, token_rows
from ckptdiff.tensors import Parallelism

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assemble import Assembled

# What NVIDIA's own code writes, and args of ours have to say alike.
FIELDS = (
    *("num_layers", "encoder_num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"),
    *("kv_channels", "position_embedding_type", "rotary_base", "rotary_percent"),
    *("rotary_interleaved", "use_rope_scaling", "rotary_seq_len_interpolation_factor"),
    *("max_position_embeddings", "add_position_embedding", "swiglu", "squared_relu"),
    *("openai_gelu", "bias_gelu_fusion", "untie_embeddings_and_output_weights"),
    *("apply_layernorm_1p", "normalization", "norm_epsilon", "add_bias_linear", "add_qkv_bias"),
    *("qk_layernorm", "attention_softmax_in_fp32", "apply_query_key_layer_scaling"),
    *("num_experts", "multi_latent_attention", "mtp_num_layers", "padded_vocab_size"),
    *("make_vocab_size_divisible_by", "tensor_model_parallel_size"),
    *("pipeline_model_parallel_size", "transformer_pipeline_model_parallel_size"),
    *("virtual_pipeline_model_parallel_size", "num_layers_per_virtual_pipeline_stage"),
    *("expert_model_parallel_size", "context_parallel_size", "decoder_first_pipeline_num_layers"),
    *("decoder_last_pipeline_num_layers", "pipeline_model_parallel_layout", "transformer_impl"),
    *("use_legacy_models", "moe_grouped_gemm", "ckpt_format", "use_dist_ckpt", "fp16"),
    "data_parallel_random_init",
)
OF_EXPERTS = (
    *("moe_router_topk", "moe_router_pre_softmax", "moe_router_score_function", "moe_layer_freq"),
    *("moe_router_enable_expert_bias", "moe_router_topk_scaling_factor", "moe_ffn_hidden_size"),
    "moe_shared_expert_intermediate_size",
)
OF_LATENT = (
    *("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"),
    *("rotary_scaling_factor", "mscale", "mscale_all_dim"),
)
# Model types whose config.json comes back under another: args do not tell them apart.
SIBLINGS = {"glm4_moe_lite": "deepseek_v3", "olmo3": "olmo2", "exaone4": "olmo2"}


def lies(case: str, args: dict[str, Any]) -> set[str]:
    """Return the fields of NVIDIA's args that are not what the model has, or mean nothing."""
    found: set[str] = set()
    if case in LOST_BASE:  # rope_theta is read by no converter
        found.add("rotary_base")
    if case.startswith("llama3/"):  # nor is rope_scaling
        found.add("use_rope_scaling")
    if args.get("max_position_embeddings") == 4096:  # the converter takes no shorter ones
        found.add("max_position_embeddings")
    if args.get("multi_latent_attention"):
        found |= {"kv_channels", "rotary_percent"}  # of no use to latent attention
    if args.get("moe_router_score_function") == "sigmoid":
        found.add("moe_router_pre_softmax")  # nor this to sigmoid scores
    if args.get("position_embedding_type") == "learned_absolute":
        found |= {"rotary_base", "rotary_percent", "rotary_interleaved", "use_rope_scaling"}
    if case.startswith("mixtral/"):  # written with --no-position-embedding, or by an older release
        found |= {"add_position_embedding"}
    return found


def restated_as(case: str, source: Assembled, written: Assembled) -> dict[str, Any]:
    """Return the args that we write for the model of `source`, cut as NVIDIA cut it."""
    args: Any = written.checkpoint.config
    te, legacy = args.get("transformer_impl") != "local", args.get("use_legacy_models")
    ours, _ = to_args(
        source,
        written.checkpoint.parallelism,
        names="legacy" if legacy else "te" if te else "mcore",
        dtype="fp16" if args.get("fp16") else "bf16",
        ckpt_format=args.get("ckpt_format", "torch_dist"),
        padded_vocab_size=args["padded_vocab_size"],
        make_vocab_size_divisible_by=args.get("make_vocab_size_divisible_by", 128),
        grouped_experts=bool(args.get("moe_grouped_gemm")),
        first_layers=args.get("decoder_first_pipeline_num_layers"),
        last_layers=args.get("decoder_last_pipeline_num_layers"),
        layout=args.get("pipeline_model_parallel_layout"),
    )
    return ours


@pytest.mark.parametrize("case", CASES)
def test_args_from_config_json_say_what_nvidia_wrote(corpus: Path, case: str) -> None:
    source, written = open_pair(corpus / case.partition("/")[0] / "hf", corpus / case)
    theirs: Any = written.checkpoint.config
    ours = restated_as(case, source, written)
    fields = [
        *FIELDS,
        *(OF_EXPERTS if theirs.get("num_experts") else ()),
        *(OF_LATENT if theirs.get("multi_latent_attention") else ()),
    ]
    excused = lies(case, theirs)
    differing = {
        name: (ours.get(name), theirs[name])
        for name in fields
        if name in theirs and name not in excused and ours.get(name) != theirs[name]
    }
    assert differing == {}
    groups = theirs["num_query_groups"] if theirs.get("group_query_attention", True) else None
    heads = theirs["num_attention_heads"]
    ours_groups = ours["num_query_groups"] if ours["group_query_attention"] else heads
    assert ours_groups == (groups or heads)


@pytest.mark.parametrize("case", CASES)
def test_args_of_ours_conflict_with_config_json_only_where_megatron_cannot_follow(
    corpus: Path, case: str
) -> None:
    source, written = open_pair(corpus / case.partition("/")[0] / "hf", corpus / case)
    ours = restated_as(case, source, written)
    assert written.architecture is not None
    lines = compare_configs(source, megatron_side(ours, written.architecture, written.tensors))
    wrong = {line.meaning for line in lines if line.status in ("conflict", "unknown")}
    cannot = {"RoPE original length"} if case.startswith("llama3/") else set()
    assert wrong == cannot | (expected(case) & {"Vocabulary"})


@pytest.mark.parametrize("case", CASES)
def test_config_json_from_nvidias_args_conflicts_only_where_the_args_lie(
    corpus: Path, case: str
) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    whole = assemble(open_checkpoint(source))
    config, notes = huggingface_config(assemble(open_checkpoint(corpus / case)), dtype="bf16")
    lines = compare_configs(whole, hf_side(config, whole.tensors))
    found = {line.meaning for line in lines if line.status in ("conflict", "unknown")}
    lost = expected(case)
    if case.startswith("mistral/"):  # of which the args have no field
        lost.add("Sliding window")
    assert found == lost
    if case in LOST_BASE:
        assert any("rope_theta" in note for note in notes)
    original = config_of(source)
    if "Vocabulary" not in lost and "fp32" not in case:
        assert config["vocab_size"] == original["vocab_size"]
    if not case.startswith("mistral/"):
        assert config["architectures"] == original["architectures"]
        assert config["model_type"] == original["model_type"]


SIZES_OF = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "hidden_act"),
    *("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "rope_theta", "tie_word_embeddings"),
    *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "n_shared_experts", "shared_expert_intermediate_size"),
    *("first_k_dense_replace", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"),
    *("n_group", "topk_group", "topk_method", "scoring_func", "routed_scaling_factor"),
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("sliding_window", "use_sliding_window", "attention_bias", "mlp_bias", "rope_interleave"),
    *("partial_rotary_factor", "activation_function", "n_embd", "n_layer", "n_head", "n_positions"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "model_type"),
    *("linear_value_head_dim", "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size"),
    *("layers_block_type", "moe_latent_size", "moe_shared_expert_intermediate_size", "use_qk_norm"),
)


def lost_on_the_way(config: dict[str, Any], back: dict[str, Any]) -> dict[str, Any]:
    stated = [name for name in SIZES_OF if name in config and config[name] is not None]
    return {n: (config[n], back.get(n)) for n in stated if back.get(n) != config[n]}


def without_effect(config: dict[str, Any]) -> set[str]:
    """Return fields that are there and change nothing in this model."""
    found = set()
    if not config.get("use_sliding_window", True):
        found.add("sliding_window")
    if "kv_lora_rank" in config:  # has neither head size nor groups of its own
        found |= {"head_dim", "num_key_value_heads"}
    if config["model_type"] == "nemotron_h":  # layer by layer in its list
        found |= {"num_hidden_layers", "rope_theta", "first_k_dense_replace", "n_shared_experts"}
    if config["model_type"] == "gpt_neox":  # where it has another name
        found |= {"rope_theta", "head_dim", "num_key_value_heads"}
    if config["model_type"] in SIBLINGS:
        found.add("model_type")
    return found


@pytest.mark.parametrize("model_type", MODELS)
def test_a_config_comes_back_from_args(model_type: str) -> None:
    config = tiny_config(model_type)
    back, _ = there_and_back(config)
    lost = lost_on_the_way(config, back)
    assert {
        name: values for name, values in lost.items() if name not in without_effect(config)
    } == {}


@pytest.mark.parametrize("family", ["llama2", "llama3", "mistral", "qwen2", "gpt2", "deepseek-v3"])
def test_a_real_config_comes_back_from_args(corpus: Path, family: str) -> None:
    config = config_of(corpus / family / "hf")
    back, _ = there_and_back(config)
    lost = lost_on_the_way(config, back)
    assert {
        name: values for name, values in lost.items() if name not in without_effect(config)
    } == {}


CANNOT = {
    "gemma": ["Activation", "Gemma multiplies"],
    "gemma2": ["Activation", "Gemma multiplies", "norms behind", "caps attention"],
    "gemma3_text": ["Activation", "Gemma multiplies", "RoPE base of their own"],
    "gpt_oss": ["Activation", "add 1"],
    "olmo2": ["over all heads at once"],
    "gpt_neox": ["use_parallel_residual"],
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
    (note,) = [note for note in notes if "RoPE original length" in note]
    assert "hard-codes 1, 4 and 8192" in note
    _, notes = to_args(hf_side({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))
    assert any(note.startswith("RoPE scaling is dynamic") for note in notes)


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
                "max_position_embeddings": 4096,
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
    args, notes = to_args(hf_side(config))
    assert args["window_size"] == (15, 0)
    assert args["window_attn_skip_freq"] == [1, 0]
    assert any("--window-size 15,0 --window-attn-skip-freq [1,0]" in note for note in notes)
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
        dtype="fp16",
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
    config, notes = huggingface_config(megatron_side(silent, family_of("llama")), dtype="bf16")
    assert config["rms_norm_eps"] == 1e-5
    assert any("RoPE base 10000" in note and "Norm epsilon 1e-05" in note for note in notes)
    assert "bos_token_id" not in config
    assert any("bos_token_id" in note for note in notes)


@pytest.mark.parametrize(("name", "word"), [("torch_dtype", "bf16"), ("dtype", "BF16")])
def test_a_hugging_face_source_keeps_its_config_but_for_the_dtype(name: str, word: str) -> None:
    config = {**LLAMA, name: "float32", "text_config": {"torch_dtype": "float32"}, "odd": [1]}
    found, notes = huggingface_config(hf_side(config), dtype=word)
    assert found == {**config, name: "bfloat16", "text_config": {"torch_dtype": "bfloat16"}}
    assert config[name] == "float32"
    assert notes == []


def test_flags_that_megatron_does_not_take_over_are_named() -> None:
    assert flags_to_give(ARGS) == "--use-rope-scaling"
    plain = {**ARGS, "use_rope_scaling": False}
    assert flags_to_give(plain) is None
    assert flags_to_give({**plain, "norm_epsilon": 1e-6, "qk_layernorm": True, "bf16": True}) == (
        "--norm-epsilon 1e-06 --qk-layernorm --bf16"
    )


def test_a_model_without_rules_cannot_be_restated() -> None:
    source = hf_side(LLAMA)
    with pytest.raises(UnknownConfig, match="no rules"):
        to_args(type(source)(source.checkpoint, None, None, {}, (), {}))


def test_metas_params_become_args_and_config_json(
    tmp_path: Path, tiny_weights: Any, tiny_hf: Any
) -> None:
    from oracle_meta import make_meta

    original = config_of(tiny_hf())
    source = assemble(open_checkpoint(make_meta(tmp_path / "meta", tiny_weights(), original)))
    config, notes = huggingface_config(source, dtype="bf16")
    assert lost_on_the_way(original, config) == {
        "max_position_embeddings": (original["max_position_embeddings"], None)
    }
    assert any("max_position_embeddings" in note for note in notes)
    args, _ = to_args(source)
    assert args["rotary_base"] == original["rope_theta"]
    a, b = assemble_pair(open_checkpoint(tiny_hf()), source.checkpoint)
    assert not [line for line in compare_configs(a, b) if line.status in ("conflict", "unknown")]
