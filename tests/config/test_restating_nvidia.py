"""Args that we write say what NVIDIA's own say; config.json comes back from NVIDIA's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.compare import compare_configs
from ckptdiff.formats import open_checkpoint
from tests.config.test_compare import CASES, LOST_BASE, expected
from tests.support.corpus import from_corpus
from tests.support.pairs import config_of, open_pair
from tests.support.restated import (
    hf_side,
    lost_on_the_way,
    megatron_side,
    there_and_back,
    to_args,
    to_config,
    without_effect,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled

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
        dtype="F16" if args.get("fp16") else "BF16",
        ckpt_format=args.get("ckpt_format", "torch_dist"),
        padded_vocab_size=args["padded_vocab_size"],
        make_vocab_size_divisible_by=args.get("make_vocab_size_divisible_by", 128),
        grouped_experts=bool(args.get("moe_grouped_gemm")),
        first_layers=args.get("decoder_first_pipeline_num_layers"),
        last_layers=args.get("decoder_last_pipeline_num_layers"),
        layout=args.get("pipeline_model_parallel_layout"),
    )
    return ours


@pytest.mark.mostly_slow(one_in=10)
@pytest.mark.parametrize("case", from_corpus(CASES))
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


@pytest.mark.mostly_slow(one_in=10)
@pytest.mark.parametrize("case", from_corpus(CASES))
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


IDS = {"Stop tokens", "First token", "Padding token"}


@pytest.mark.mostly_slow(one_in=10)
@pytest.mark.parametrize("case", from_corpus(CASES))
def test_config_json_from_nvidias_args_conflicts_only_where_the_args_lie(
    corpus: Path, case: str
) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    whole = assemble(open_checkpoint(source))
    config, notes = to_config(assemble(open_checkpoint(corpus / case)))
    lines = compare_configs(whole, hf_side(config, whole.tensors))
    found = {line.meaning for line in lines if line.status in ("conflict", "unknown")}
    lost = expected(case)
    if case.startswith("mistral/"):  # of which the args have no field
        lost.add("Sliding window")
    assert found - IDS == lost  # args hold no token ids
    if case in LOST_BASE:
        assert any("rope_theta" in note for note in notes)
    original = config_of(source)
    if "Vocabulary" not in lost and "fp32" not in case:
        assert config["vocab_size"] == original["vocab_size"]
    if not case.startswith("mistral/"):
        assert config["architectures"] == original["architectures"]
        assert config["model_type"] == original["model_type"]


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("family", ["llama2", "llama3", "mistral", "qwen2", "gpt2", "deepseek-v3"])
def test_a_real_config_comes_back_from_args(corpus: Path, family: str) -> None:
    config = config_of(corpus / family / "hf")
    back, _ = there_and_back(config)
    lost = lost_on_the_way(config, back)
    assert {
        name: values for name, values in lost.items() if name not in without_effect(config)
    } == {}
