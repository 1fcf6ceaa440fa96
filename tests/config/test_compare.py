"""What config.json and the args say of a model is compared meaning by meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.arch import find_architecture
from ckptdiff.assembly.recipe import Assembled, Assembly
from ckptdiff.checkpoint import Checkpoint, Convention, Parallelism
from ckptdiff.cli.main import main
from ckptdiff.comparison.verdict import summarise
from ckptdiff.config.compare import ConfigDiff, compare_configs, config_status
from ckptdiff.config.fields import FIELDS
from ckptdiff.demo import make_demo
from tests.support.corpus import CORPUS, FAULTS, NO_FAULTS, from_corpus
from tests.support.pairs import open_pair

pytestmark = pytest.mark.mostly_slow(one_in=4)
ABSENT = object()  # as the value of a field: the file does not have it

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
ARGS: dict[str, Any] = {
    "num_layers": 32,
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "group_query_attention": True,
    "num_query_groups": 8,
    "kv_channels": 128,
    "swiglu": True,
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "qk_layernorm": False,
    "bias_gelu_fusion": False,
    "normalization": "RMSNorm",
    "norm_epsilon": 1e-05,
    "apply_layernorm_1p": False,
    "position_embedding_type": "rope",
    "rotary_base": 500000,
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
    "use_rope_scaling": True,
    "rope_scaling_factor": 8.0,
    "max_position_embeddings": 131072,
    "untie_embeddings_and_output_weights": True,
    "padded_vocab_size": 128512,
    "multi_latent_attention": False,
    "mtp_num_layers": None,
    "num_experts": None,
}
MIXTRAL: dict[str, Any] = {
    **{k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
MOE_ARGS: dict[str, Any] = {
    **ARGS,
    "use_rope_scaling": False,
    "num_experts": 8,
    "moe_router_topk": 2,
    "moe_router_pre_softmax": False,
    "moe_router_score_function": "softmax",
    "moe_router_topk_scaling_factor": None,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_router_enable_expert_bias": False,
    "moe_layer_freq": 1,
    "moe_ffn_hidden_size": 14336,
    "moe_shared_expert_intermediate_size": None,
}
DEEPSEEK: dict[str, Any] = {
    **{k: v for k, v in LLAMA.items() if k not in ("mlp_bias", "head_dim")},
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
}
DEEPSEEK_ARGS: dict[str, Any] = {
    **MOE_ARGS,
    "num_layers": 4,
    "multi_latent_attention": True,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_head_dim": 128,
    "qk_pos_emb_head_dim": 64,
    "v_head_dim": 128,
    "qk_layernorm": True,
    "moe_layer_freq": [0, 1, 1, 1],
    "num_experts": 16,
    "moe_shared_expert_intermediate_size": 2048,
    "moe_ffn_hidden_size": 2048,
    "moe_router_topk": 8,
    "moe_router_num_groups": 8,
    "moe_router_group_topk": 4,
    "moe_router_enable_expert_bias": True,
    "moe_router_score_function": "sigmoid",
    "moe_router_topk_scaling_factor": 2.5,
    "mtp_num_layers": 1,
    "rotary_base": 10000,
    "rotary_scaling_factor": 40.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "max_position_embeddings": 4096,
}
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-05,
    "scale_attn_weights": True,
    "vocab_size": 50257,
}
GPT2_ARGS: dict[str, Any] = {
    **ARGS,
    "num_layers": 12,
    "hidden_size": 768,
    "ffn_hidden_size": 3072,
    "num_attention_heads": 12,
    "group_query_attention": False,
    "num_query_groups": 1,  # what Megatron stores for multi-head attention
    "kv_channels": 64,
    "swiglu": False,
    "bias_gelu_fusion": True,
    "add_bias_linear": True,
    "normalization": "LayerNorm",
    "position_embedding_type": "learned_absolute",
    "use_rope_scaling": False,
    "max_position_embeddings": 1024,
    "untie_embeddings_and_output_weights": False,
    "padded_vocab_size": 50304,
}
QWEN2: dict[str, Any] = {
    **{k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
}
QWEN2_ARGS: dict[str, Any] = {**ARGS, "add_qkv_bias": True, "use_rope_scaling": False}
NEMOTRON: dict[str, Any] = {
    **{k: v for k, v in LLAMA.items() if k not in ("rope_scaling", "rms_norm_eps")},
    "architectures": ["NemotronForCausalLM"],
    "model_type": "nemotron",
    "hidden_act": "relu2",
    "norm_eps": 1e-05,
    "partial_rotary_factor": 0.5,
}
NEMOTRON_ARGS: dict[str, Any] = {
    **ARGS,
    "use_rope_scaling": False,
    "swiglu": False,
    "squared_relu": True,
    "normalization": "LayerNorm",
    "apply_layernorm_1p": True,
    "rotary_percent": 0.5,
}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (LLAMA, ARGS),
    "mixtral": (MIXTRAL, MOE_ARGS),
    "deepseek": (DEEPSEEK, DEEPSEEK_ARGS),
    "gpt2": (GPT2, GPT2_ARGS),
    "qwen2": (QWEN2, QWEN2_ARGS),
    "nemotron": (NEMOTRON, NEMOTRON_ARGS),
}


def side(config: dict[str, Any] | None, *tensors: str) -> Assembled:
    """Return a side that is nothing but its config and the names of its tensors."""
    megatron = config is not None and "model_type" not in config
    kind: Convention = "megatron" if megatron else "hf"
    opened = Checkpoint(Path("/ckpt"), kind, kind, config, Parallelism(), (), ())
    family = None if megatron or config is None else find_architecture(config)
    recipes: Any = {name: Assembly(name, (), "BF16", ()) for name in tensors}
    return Assembled(opened, family, None, recipes, (), {})


def lines_of(
    hf: dict[str, Any], args: dict[str, Any], *tensors: str, swap: bool = False
) -> dict[str, ConfigDiff]:
    a, b = side(hf), side(args, *tensors)
    return {line.meaning: line for line in compare_configs(*((b, a) if swap else (a, b)))}


def changed(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **change}
    return {key: value for key, value in merged.items() if value is not ABSENT}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("swap", [False, True])
def test_a_pair_that_agrees_has_no_conflict_and_nothing_unknown(family: str, swap: bool) -> None:
    lines = lines_of(*FAMILIES[family], swap=swap).values()
    assert [line for line in lines if line.status in ("conflict", "unknown")] == []
    assert config_status(lines) == "same"
    assert not [line for line in lines if line.fix or line.consequence]


def test_every_meaning_has_a_name_of_its_own() -> None:
    assert len({meaning.name for meaning in FIELDS}) == len(FIELDS)


Change = dict[str, Any]
CONFLICTS: list[tuple[str, Change, Change, str, str, str | None]] = [
    # family, change of config.json, change of args, meaning, names, flag
    ("llama", {}, {"num_layers": 30}, "Layers", "num_hidden_layers num_layers", "--num-layers 32"),
    ("llama", {}, {"hidden_size": 1}, "Hidden size", "hidden_size hidden_size",
     "--hidden-size 4096"),
    (
        "llama", {}, {"ffn_hidden_size": 1}, "FFN size", "intermediate_size ffn_hidden_size",
        "--ffn-hidden-size 14336",
    ),
    (
        "llama", {}, {"num_attention_heads": 64}, "Attention heads",
        "num_attention_heads num_attention_heads", "--num-attention-heads 32",
    ),
    (
        "llama", {}, {"num_query_groups": 4}, "Query groups",
        "num_key_value_heads num_query_groups",
        "--group-query-attention --num-query-groups 8",
    ),
    ("llama", {}, {"kv_channels": 64}, "Head dimension", "head_dim kv_channels",
     "--kv-channels 128"),
    ("llama", {}, {"rotary_base": 10000}, "RoPE base", "rope_theta rotary_base",
     "--rotary-base 500000"),
    (
        "llama", {}, {"use_rope_scaling": False}, "RoPE scaling",
        "rope_scaling.rope_type use_rope_scaling", "--use-rope-scaling",
    ),
    (
        "llama", {"rope_scaling": None}, {}, "RoPE scaling", "rope_scaling use_rope_scaling",
        "leave out --use-rope-scaling",
    ),
    (
        "llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, {"use_rope_scaling": False},
        "RoPE scaling", "rope_scaling.type use_rope_scaling",
        "--rotary-seq-len-interpolation-factor 4 (Megatron-LM 0.19)",
    ),
    (
        "llama", {}, {"rope_scaling_factor": 32.0}, "RoPE scaling factor",
        "rope_scaling.factor rope_scaling_factor", None,
    ),
    (
        "llama", {"rope_scaling": {**LLAMA["rope_scaling"], "low_freq_factor": 2.0}}, {},

        "RoPE low frequency factor", "rope_scaling.low_freq_factor -", None,
    ),
    (
        "llama", {"rope_scaling": {**LLAMA["rope_scaling"], "high_freq_factor": 8.0}}, {},

        "RoPE high frequency factor", "rope_scaling.high_freq_factor -", None,
    ),
    (
        "llama",
        {"rope_scaling": {**LLAMA["rope_scaling"], "original_max_position_embeddings": 64}},

        {},
        "RoPE original length", "rope_scaling.original_max_position_embeddings -", None,
    ),
    (
        "nemotron", {}, {"rotary_percent": 1.0}, "Rotated part of a head",
        "partial_rotary_factor rotary_percent", "--rotary-percent 0.5",
    ),
    (
        "llama", {}, {"rotary_interleaved": True}, "Rotary pairs", "- rotary_interleaved",
        "leave out --rotary-interleaved",
    ),
    ("llama", {}, {"norm_epsilon": 1e-6}, "Norm epsilon", "rms_norm_eps norm_epsilon",
     "--norm-epsilon 1e-05"),
    ("llama", {}, {"normalization": "LayerNorm"}, "Norm", "- normalization",
     "--normalization RMSNorm"),
    (
        "llama", {}, {"apply_layernorm_1p": True}, "Zero-centred norms", "- apply_layernorm_1p",
        "leave out --apply-layernorm-1p",
    ),
    (
        "nemotron", {}, {"apply_layernorm_1p": False}, "Zero-centred norms", "- apply_layernorm_1p",
        "--apply-layernorm-1p",
    ),
    ("llama", {}, {"swiglu": False}, "Activation", "hidden_act swiglu", "--swiglu"),
    (
        "llama", {}, {"swiglu": False, "quick_geglu": True}, "Activation", "hidden_act quick_geglu",
        "leave out --quick-geglu, --swiglu",
    ),
    (
        "nemotron", {}, {"squared_relu": False}, "Activation", "hidden_act swiglu",
        "--squared-relu",
    ),
    (
        "gpt2", {}, {"bias_gelu_fusion": False}, "Activation",
        "activation_function bias_gelu_fusion",
        "leave out --no-bias-gelu-fusion",
    ),
    (
        "gpt2", {"activation_function": "gelu"}, {}, "Activation",
        "activation_function bias_gelu_fusion", "--no-bias-gelu-fusion",
    ),
    (
        "llama", {}, {"untie_embeddings_and_output_weights": False}, "Tied embeddings",
        "tie_word_embeddings untie_embeddings_and_output_weights",
        "--untie-embeddings-and-output-weights",
    ),
    (
        "llama", {}, {"add_bias_linear": True, "add_qkv_bias": False}, "Linear biases",
        "mlp_bias add_bias_linear", "--disable-bias-linear",
    ),
    ("qwen2", {}, {"add_qkv_bias": False}, "QKV bias", "- add_qkv_bias", "--add-qkv-bias"),
    ("llama", {}, {"qk_layernorm": True}, "Q/K norm", "- qk_layernorm", "leave out --qk-layernorm"),
    (
        "gpt2", {"scale_attn_by_inverse_layer_idx": True}, {}, "Softmax scale",
        "scale_attn_by_inverse_layer_idx -", None,
    ),
    (
        "llama", {}, {"softmax_scale": 0.25}, "Softmax scale", "- softmax_scale", None,
    ),
    (
        "llama", {}, {"padded_vocab_size": 128000}, "Vocabulary", "vocab_size padded_vocab_size",
        "--vocab-size 128256",
    ),
    (
        "mixtral", {"sliding_window": 4096}, {"window_size": None}, "Sliding window",
        "sliding_window window_size", "--window-size 4095,0",
    ),
    (
        "mixtral", {}, {"window_size": [127, 0]}, "Sliding window", "- window_size",
        "leave out --window-size",
    ),
    (
        "gpt2", {}, {"position_embedding_type": "rope"}, "Position embedding",
        "- position_embedding_type", "--position-embedding-type learned_absolute",
    ),
    (
        "gpt2", {}, {"max_position_embeddings": 2048}, "Max positions",
        "n_positions max_position_embeddings", "--max-position-embeddings 1024",
    ),
    ("mixtral", {}, {"num_experts": 4}, "Experts", "num_local_experts num_experts",
     "--num-experts 8"),
    (
        "mixtral", {}, {"moe_router_topk": 1}, "Experts per token",
        "num_experts_per_tok moe_router_topk", "--moe-router-topk 2",
    ),
    (
        "mixtral", {}, {"moe_router_pre_softmax": True}, "Router weights sum to one",
        "- moe_router_pre_softmax", "leave out --moe-router-pre-softmax",
    ),
    (
        "mixtral", {}, {"moe_ffn_hidden_size": 1}, "Expert FFN size",
        "intermediate_size moe_ffn_hidden_size", "--moe-ffn-hidden-size 14336",
    ),
    (
        "mixtral", {}, {"moe_layer_freq": 2}, "Layers of experts", "- moe_layer_freq",
        "--moe-layer-freq 1",
    ),
    (
        "deepseek", {}, {"moe_layer_freq": [0, 0, 1, 1]}, "Layers of experts",
        "first_k_dense_replace moe_layer_freq", "--moe-layer-freq '[0,1,1,1]'",
    ),
    (
        "deepseek", {}, {"moe_router_topk_scaling_factor": None}, "Router scaling",
        "routed_scaling_factor moe_router_topk_scaling_factor",
        "--moe-router-topk-scaling-factor 2.5",
    ),
    (
        "deepseek", {}, {"moe_router_score_function": "softmax"}, "Router scores",
        "scoring_func moe_router_score_function", "--moe-router-score-function sigmoid",
    ),
    (
        "deepseek", {"norm_topk_prob": False}, {}, "Router weights sum to one",
        "norm_topk_prob -", None,
    ),
    (
        "deepseek", {}, {"moe_router_num_groups": 4}, "Router groups",
        "n_group moe_router_num_groups", "--moe-router-num-groups 8",
    ),
    (
        "deepseek", {"topk_group": 3}, {}, "Router groups per token",
        "topk_group moe_router_group_topk", "--moe-router-group-topk 3",
    ),
    (
        "deepseek", {}, {"moe_shared_expert_intermediate_size": None}, "Shared expert FFN size",
        "n_shared_experts moe_shared_expert_intermediate_size",
        "--moe-shared-expert-intermediate-size 2048",
    ),
    (
        "deepseek", {}, {"moe_router_enable_expert_bias": False}, "Router bias",
        "topk_method moe_router_enable_expert_bias", "--moe-router-enable-expert-bias",
    ),
    ("deepseek", {}, {"q_lora_rank": None}, "Latent rank of queries", "q_lora_rank q_lora_rank",
     "--q-lora-rank 1536"),
    (
        "deepseek", {}, {"kv_lora_rank": 256}, "Latent rank of keys and values",
        "kv_lora_rank kv_lora_rank", "--kv-lora-rank 512",
    ),
    (
        "deepseek", {}, {"qk_head_dim": 64}, "Unrotated head dimension",
        "qk_nope_head_dim qk_head_dim", "--qk-head-dim 128",
    ),
    (
        "deepseek", {}, {"qk_pos_emb_head_dim": 32}, "Rotated head dimension",
        "qk_rope_head_dim qk_pos_emb_head_dim", "--qk-pos-emb-head-dim 64",
    ),
    ("deepseek", {}, {"v_head_dim": 64}, "Value head dimension", "v_head_dim v_head_dim",
     "--v-head-dim 128"),
    ("deepseek", {}, {"mscale": 0.707}, "YaRN mscale", "rope_scaling.mscale mscale", "--mscale 1"),
    (
        "deepseek", {}, {"mscale_all_dim": 0.0}, "YaRN mscale_all_dim",
        "rope_scaling.mscale_all_dim mscale_all_dim", "--mscale-all-dim 1",
    ),
    (
        "deepseek", {}, {"rotary_scaling_factor": 1.0}, "RoPE scaling",
        "rope_scaling.type rotary_scaling_factor", "--rope-type yarn --rotary-scaling-factor 40",
    ),
    (
        "deepseek", {}, {"rotary_scaling_factor": 20.0}, "RoPE scaling factor",
        "rope_scaling.factor rotary_scaling_factor", "--rotary-scaling-factor 40",
    ),
    (
        "deepseek", {}, {"max_position_embeddings": 8192}, "YaRN original length",
        "rope_scaling.original_max_position_embeddings max_position_embeddings",
        None,
    ),
    (
        "deepseek", {"rope_scaling": {**DEEPSEEK["rope_scaling"], "beta_fast": 16}}, {},

        "YaRN beta_fast", "rope_scaling.beta_fast -", None,
    ),
    (
        "deepseek", {"rope_interleave": False}, {}, "Rotary pairs",
        "rope_interleave multi_latent_attention", None,
    ),
    (
        "deepseek", {}, {"mtp_num_layers": None}, "Prediction layers",
        "num_nextn_predict_layers mtp_num_layers", "--mtp-num-layers 1",
    ),
    (
        "llama", {}, {"multi_latent_attention": True, "kv_lora_rank": 512}, "Latent attention",
        "- multi_latent_attention", "leave out --multi-latent-attention",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "hf", "args", "meaning", "names", "fix"),
    CONFLICTS,
    ids=[f"{row[3]}-{number}" for number, row in enumerate(CONFLICTS)],
)
def test_a_conflict_names_both_fields_and_the_flag_that_mends_it(
    family: str,
    hf: dict[str, Any],
    args: dict[str, Any],
    meaning: str,
    names: str,
    fix: str | None,
) -> None:
    config, saved = FAMILIES[family]
    lines = lines_of(changed(config, hf), changed(saved, args))
    line = lines[meaning]
    assert line.status == "conflict", line
    assert f"{line.name_a or '-'} {line.name_b or '-'}" == names
    assert line.fix == fix
    assert line.consequence is not None
    assert line.consequence.endswith(".")
    assert config_status(lines.values()) == "conflict"


@pytest.mark.parametrize("number", range(len(CONFLICTS)))
def test_a_conflict_stays_one_when_the_sides_change_places(number: int) -> None:
    family, hf, args, meaning, *_ = CONFLICTS[number]
    config, saved = FAMILIES[family]
    forward = lines_of(changed(config, hf), changed(saved, args))[meaning]
    backward = lines_of(changed(config, hf), changed(saved, args), swap=True)[meaning]
    assert backward.status == "conflict"
    assert (backward.name_a, backward.a, backward.b) == (forward.name_b, forward.b, forward.a)
    if backward.fix is not None:  # it is B that is mended, and here B is the config.json
        entries = json.loads(f"{{{backward.fix.removesuffix(' in config.json')}}}")
        mended = changed(config, hf) | entries
        again = lines_of(mended, changed(saved, args), swap=True)
        assert meaning not in again or again[meaning].status != "conflict"


# Changes that touch a size of which others follow, or that switch a whole feature.
FAR_REACHING = {
    "Position embedding", "Latent attention", "Softmax scale", "Layers of experts", "Linear biases",
    "Router scores",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(CONFLICTS)))
def test_one_wrong_field_is_one_conflict(number: int) -> None:
    family, hf, args, meaning, *_ = CONFLICTS[number]
    if meaning in FAR_REACHING:
        pytest.skip("several lines follow from it")
    config, saved = FAMILIES[family]
    lines = lines_of(changed(config, hf), changed(saved, args)).values()
    found = [line.meaning for line in lines if line.status == "conflict"]
    ranked = {"Experts that rank a group"} if "topk_group" in hf else set()
    assert set(found) - ranked == {meaning}


IMPLIED: list[tuple[str, Change, Change, str, str]] = [
    ("llama", {"rope_theta": ABSENT}, {"rotary_base": 10000}, "RoPE base", "transformers' default"),
    ("mixtral", {"rope_theta": ABSENT}, {"rotary_base": 1000000}, "RoPE base",
     "transformers' default"),
    ("llama", {"rope_theta": 10000}, {"rotary_base": ABSENT}, "RoPE base", "Megatron's default"),
    ("llama", {"head_dim": ABSENT}, {}, "Head dimension", "hidden size / heads"),
    ("llama", {"num_key_value_heads": 32}, {"group_query_attention": False}, "Query groups",
     "is off"),
    ("llama", {"rms_norm_eps": ABSENT}, {"norm_epsilon": 1e-6}, "Norm epsilon", "transformers'"),
    ("llama", {}, {"rotary_interleaved": ABSENT, "rotary_percent": ABSENT}, "Norm",
     "every llama model"),
    ("llama", {"max_position_embeddings": 4096}, {}, "Max positions", "changes no value"),
    ("llama", {}, {"max_position_embeddings": ABSENT}, "Max positions", "changes no value"),
    ("llama", {}, {}, "Vocabulary", "256 rows of padding"),
    ("llama", {"tie_word_embeddings": ABSENT}, {}, "Tied embeddings", "transformers' default"),
    ("llama", {}, {"apply_layernorm_1p": ABSENT, "layernorm_zero_centered_gamma": False},
     "Zero-centred norms", "every llama model"),
    ("gpt2", {}, {}, "FFN size", "4 times the hidden size"),
    ("deepseek", {}, {}, "YaRN beta_slow", "Megatron's default"),
    ("deepseek", {}, {"moe_router_pre_softmax": True}, "Router weights sum to one", "sigmoid"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "hf", "args", "meaning", "source"), IMPLIED)
def test_what_one_side_does_not_store_is_implied_and_says_from_what(
    family: str, hf: dict[str, Any], args: dict[str, Any], meaning: str, source: str
) -> None:
    config, saved = FAMILIES[family]
    line = lines_of(changed(config, hf), changed(saved, args))[meaning]
    assert line.status == "implied", line
    assert line.note is not None
    assert source in line.note
    assert line.fix is None


def test_a_field_that_old_args_lack_is_read_off_the_tensors() -> None:
    lacking = dict.fromkeys(
        ["add_bias_linear", "add_qkv_bias", "qk_layernorm", "untie_embeddings_and_output_weights",
         "position_embedding_type"], ABSENT,
    )  # fmt: skip
    attention = "model.layers.0.self_attn"
    names = [f"{attention}.q_proj.weight", f"{attention}.q_proj.bias", "lm_head.weight"]
    lines = lines_of(QWEN2, changed(QWEN2_ARGS, lacking), *names)
    assert config_status(lines.values()) == "same"
    assert lines["Tied embeddings"].note == "B follows from: a head among the tensors"


def test_tensors_that_are_lacking_are_no_conflict_of_the_configs() -> None:
    lacking = {"untie_embeddings_and_output_weights": ABSENT, "add_bias_linear": ABSENT}
    args = changed(QWEN2_ARGS, {**lacking, "add_qkv_bias": ABSENT})
    lines = lines_of(QWEN2, args, "model.layers.0.self_attn.q_proj.weight")
    assert [line for line in lines.values() if line.status == "conflict"] == []
    assert lines["Tied embeddings"].status == "unknown"


UNKNOWN: list[tuple[str, Change, Change, str]] = [
    ("llama", {}, {"kv_channels": "many"}, "Head dimension"),
    ("llama", {"rope_theta": "big"}, {}, "RoPE base"),
    ("llama", {"vocab_size": ABSENT}, {}, "Vocabulary"),
    ("llama", {}, {"swiglu": ABSENT}, "Activation"),
    ("mixtral", {"sliding_window": 4096}, {}, "Sliding window"),
    ("mixtral", {}, {"moe_layer_freq": "odd"}, "Layers of experts"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "hf", "args", "meaning"), UNKNOWN)
def test_what_one_side_does_not_tell_is_unknown_and_no_conflict(
    family: str, hf: dict[str, Any], args: dict[str, Any], meaning: str
) -> None:
    config, saved = FAMILIES[family]
    lines = lines_of(changed(config, hf), changed(saved, args))
    if meaning != "Layers of experts":
        assert lines[meaning].status == "unknown", lines[meaning]
        assert config_status(lines.values()) == "unknown"
    assert not [line for line in lines.values() if line.status == "conflict"]


INERT: list[tuple[str, Change, Change]] = [
    ("llama", {"rope_scaling": None}, {"use_rope_scaling": False, "rope_scaling_factor": 32.0}),
    ("llama", {}, {"rotary_scaling_factor": 40.0, "mscale": 7.0, "q_lora_rank": 3}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 1.0}}, {"use_rope_scaling": False}),
    ("llama", {"sliding_window": 131072}, {}),
    ("llama", {}, {"moe_router_topk": 7, "moe_router_score_function": "sigmoid"}),
    ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, {}),
    ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 32}, {}),
    ("gpt2", {}, {"rotary_base": 77, "rotary_percent": 0.1}),
    ("deepseek", {"n_group": 1, "topk_group": 1}, {"moe_router_num_groups": None}),
    ("deepseek", {"head_dim": 64}, {"kv_channels": 999, "num_query_groups": 3}),
]


@pytest.mark.parametrize(("family", "hf", "args"), INERT)
def test_a_field_without_effect_is_no_conflict(
    family: str, hf: dict[str, Any], args: dict[str, Any]
) -> None:
    config, saved = FAMILIES[family]
    lines = lines_of(changed(config, hf), changed(saved, args)).values()
    assert [line for line in lines if line.status in ("conflict", "unknown")] == []


def test_transformers_4_and_5_say_the_same_in_other_words() -> None:
    scaling: Any = LLAMA["rope_scaling"]
    new = changed(LLAMA, {"rope_theta": ABSENT, "rope_scaling": ABSENT})
    new["rope_parameters"] = {**scaling, "rope_theta": 500000.0}
    lines = {line.meaning: line for line in compare_configs(side(LLAMA), side(new))}
    assert config_status(lines.values()) == "same"
    assert lines["RoPE base"].name_b == "rope_theta"
    assert lines["RoPE scaling factor"].name_b == "rope_parameters.factor"
    against = lines_of(new, {**ARGS, "rotary_base": 10000})
    assert [k for k, line in against.items() if line.status == "conflict"] == ["RoPE base"]
    plain = changed(LLAMA, {"rope_theta": ABSENT, "rope_scaling": ABSENT})
    plain["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    assert lines_of(plain, {**ARGS, "use_rope_scaling": False})["RoPE scaling"].status == "same"


def test_scaling_that_megatron_cannot_represent_is_said() -> None:
    scaling: Any = {**LLAMA["rope_scaling"], "original_max_position_embeddings": 64}
    lines = lines_of({**LLAMA, "rope_scaling": scaling}, {**ARGS, "use_rope_scaling": False})
    conflicts = [line for line in lines.values() if line.status == "conflict"]
    assert [line.meaning for line in conflicts] == ["RoPE scaling"]
    assert conflicts[0].fix is None
    assert "a factor of 8, and 1, 4 and 8192" in (conflicts[0].consequence or "")


def test_two_configs_of_transformers_are_mended_in_the_file() -> None:
    (line,) = [
        line
        for line in compare_configs(side(LLAMA), side({**LLAMA, "rms_norm_eps": 1e-6}))
        if line.status == "conflict"
    ]
    assert line.fix == '"rms_norm_eps": 1e-05 in config.json'


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
BARE = {"rope_theta": ABSENT, "rope_scaling": ABSENT}


@pytest.mark.parametrize(
    ("a", "b", "fix"),
    [
        # What B has in one object of transformers 5 is given as a whole.
        (BARE, {**BARE, "rope_parameters": LLAMA3}, {"rope_parameters": PLAIN}),
        ({**BARE, "rope_parameters": LLAMA3}, BARE, {"rope_parameters": LLAMA3}),
        ({}, {**BARE, "rope_parameters": PLAIN}, {"rope_parameters": LLAMA3}),
        # transformers 5 would read the older object beside it.
        (
            {**BARE, "rope_parameters": LLAMA3},
            {"rope_parameters": PLAIN, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": LLAMA3, "rope_scaling": None},
        ),
    ],
)  # fmt: skip
def test_each_fix_of_rotary_embeddings_is_the_whole_entry(
    a: Change, b: Change, fix: dict[str, Any]
) -> None:
    config = changed(LLAMA, b)
    found = [
        line
        for line in compare_configs(side(changed(LLAMA, a)), side(config))
        if line.status == "conflict" and line.meaning.startswith("RoPE")
    ]
    assert found
    for line in found:
        if line.meaning != "RoPE in transformers 4":
            assert line.fix is not None
            entries = json.loads(f"{{{line.fix.removesuffix(' in config.json')}}}")
            assert entries == fix
            again = compare_configs(side(changed(LLAMA, a)), side({**config, **entries}))
            assert not [x for x in again if x.status == "conflict" and x.meaning == line.meaning]


@pytest.mark.parametrize(
    ("tied", "other", "held", "fix"),
    [
        (True, {"tie_word_embeddings": False}, True, None),  # B's head would be lost
        (False, {"tie_word_embeddings": True}, False, None),  # B has no head
        (True, {"tie_word_embeddings": False}, False, '"tie_word_embeddings": true in config.json'),
        (False, {"tie_word_embeddings": True}, True, '"tie_word_embeddings": false in config.json'),
    ],
)  # fmt: skip
def test_no_fix_loses_a_head_or_promises_one(
    tied: bool, other: Change, held: bool, fix: str | None
) -> None:
    names = ["model.embed_tokens.weight", *(["lm_head.weight"] if held else [])]
    a, b = side({**LLAMA, "tie_word_embeddings": tied}), side({**LLAMA, **other}, *names)
    (line,) = [line for line in compare_configs(a, b) if line.status == "conflict"]
    assert line.fix == fix
    untied = {**ARGS, "untie_embeddings_and_output_weights": tied}
    (line,) = [
        line for line in compare_configs(a, side(untied, *names)) if line.status == "conflict"
    ]
    assert (line.fix is None) == (fix is None)


def test_two_megatron_sides_are_mended_by_a_flag_for_the_second() -> None:
    (line,) = [
        line
        for line in compare_configs(side(ARGS), side({**ARGS, "rotary_base": 10000}))
        if line.status == "conflict"
    ]
    assert (line.name_a, line.name_b) == ("rotary_base", "rotary_base")
    assert line.fix == "--rotary-base 500000"


def test_vocabularies_that_are_padded_differently_do_not_conflict() -> None:
    lines = compare_configs(side(ARGS), side({**ARGS, "padded_vocab_size": 129024}))
    assert config_status(lines) == "same"


def test_without_a_config_nothing_is_known() -> None:
    assert compare_configs(side(None), side(ARGS)) == []
    assert config_status([]) == "unknown"


def test_the_head_of_a_float_that_went_through_float32_is_no_conflict() -> None:
    lines = lines_of(LLAMA, {**ARGS, "norm_epsilon": 9.999999747378752e-06})
    assert lines["Norm epsilon"].status == "same"


ODD: list[Any] = [
    None, True, -1, 0, 1 << 80, 10**5000, 1e308, float("nan"), "text", [], [1, [2]], {}, {"a": 1},
    object(),
]  # fmt: skip


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("family", ["llama", "deepseek", "mixtral"])
@pytest.mark.parametrize("which", [0, 1])
def test_fields_of_any_type_end_in_lines_that_are_json(family: str, which: int) -> None:
    for key in FAMILIES[family][which]:
        if key in ("model_type", "architectures"):
            continue
        for value in ODD:
            both = list(FAMILIES[family])
            both[which] = {**both[which], key: value}
            lines = lines_of(both[0], both[1]).values()
            json.dumps([[line.a, line.b, line.fix, line.note] for line in lines])


# ── real files ───────────────────────────────────────────────────────────────────────────────────

# NVIDIA's converter never reads rope_theta, so args keep the default of 10000.
LOST_BASE = {
    "llama3-fp32/megatron-tp1-pp2-core-local-fp32",
    "llama3-fp32/megatron-tp2-pp1-core-local-fp32",
    "llama3/megatron-tp1-pp1-core-local-div16",
    "llama3/megatron-tp2-pp1-core-local",
    "llama3/megatron-tp2-pp2-core-local-div1",
    "llama3/megatron-tp2-pp2-core-transformer_engine-te1",
    "mistral/megatron-tp2-pp1-core-local",
    "mistral/megatron-tp2-pp2-core-transformer_engine-te1-div8",
    "mistral/megatron-tp4-pp1-core-local",
    "mixtral/megatron-tp1-pp1-core-transformer_engine-te1",
    "mixtral/megatron-tp1-pp1-ep2-core-transformer_engine-te1",
    "mixtral/megatron-tp1-pp2-ep4-core-transformer_engine-te1",
    "mixtral/megatron-tp2-pp1-ep2-core-transformer_engine-te1",
    "mixtral/megatron-tp2-pp2-ep2-core-transformer_engine-te2",
    "qwen2-widevocab/megatron-tp2-pp1-core-local",
    "qwen2/megatron-tp1-pp1-core-local",
    "qwen2/megatron-tp1-pp2-core-transformer_engine-te2",
    "qwen2/megatron-tp2-pp1-core-local",
    "qwen2/megatron-tp2-pp2-core-local",
    "qwen2/megatron-tp2-pp2-legacy",
    # Its 17 args were written with the default.
    "qwen2/megatron-tp2-pp2-mcore0.16-singleton-torch_dist",
    "qwen2/megatron-tp2-pp2-mcore0.16-torch_dist",
}
CASES = sorted(
    f"{folder.parent.name}/{folder.name}"
    for folder in CORPUS.glob("*/megatron-*")
    if (folder.parent / "hf").is_dir()
)


def expected(case: str) -> set[str]:
    found = {"RoPE base"} if case in LOST_BASE else set()
    if case.startswith("llama3/"):  # rope_scaling is read by no converter
        found.add("RoPE scaling")
    if case.startswith("qwen2-widevocab/"):  # rows above the tokenizer's size were dropped
        found.add("Vocabulary")
    return found


@pytest.mark.mostly_slow(one_in=10)
@pytest.mark.parametrize("case", from_corpus(CASES))
def test_what_nvidia_wrote_conflicts_only_where_its_converter_lost_something(
    corpus: Path, case: str
) -> None:
    a, b = open_pair(corpus / case.partition("/")[0] / "hf", corpus / case)
    for sides in ((a, b), (b, a)):
        lines = compare_configs(*sides)
        assert {line.meaning for line in lines if line.status == "conflict"} == expected(case)
        unknown = {line.meaning for line in lines if line.status == "unknown"}
        # These args have no field for the window of Mistral.
        assert unknown == ({"Sliding window"} if case.startswith("mistral/") else set())


def test_the_config_of_transformers_5_equals_that_of_4(corpus: Path) -> None:
    # Release 5 saved the tokenizer of the second without its BOS.
    for family, conflicts in (("llama3", []), ("mixtral", ["Special tokens around a text"])):
        a, b = open_pair(corpus / family / "hf", corpus / f"tf5/{family}-hf-transformers5")
        lines = compare_configs(a, b)
        assert [line.meaning for line in lines if line.status == "conflict"] == conflicts
        assert not [line for line in lines if line.status == "unknown"]


def test_the_planted_rope_base_is_the_only_conflict(corpus: Path) -> None:
    planted = FAULTS / "P20/ckpt"
    if not planted.is_dir():
        pytest.skip(NO_FAULTS)
    a, b = open_pair(corpus / "llama2/hf", planted)
    (line,) = [line for line in compare_configs(a, b) if line.status == "conflict"]
    assert (line.name_a, line.a, line.name_b, line.b) == (
        "rope_theta",
        10000.0,
        "rotary_base",
        20000,
    )
    assert line.fix == "--rotary-base 10000"


# ── the verdict and the documents ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("fault", "conflicts"), [("none", []), ("rope-base", ["RoPE base"])])
def test_the_demo_has_the_conflict_that_is_asked_for(
    tmp_path: Path, fault: str, conflicts: list[str]
) -> None:
    lines = compare_configs(*open_pair(*make_demo(tmp_path / "demo", fault=fault)))
    assert [line.meaning for line in lines if line.status == "conflict"] == conflicts
    assert not [line for line in lines if line.status == "unknown"]


def test_a_conflict_makes_the_verdict_differ_and_leaves_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_demo(tmp_path / "demo", fault="rope-base")
    command = ["diff", str(a), str(b), "--jobs", "1"]
    assert main([*command, "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [found[key] for key in ("verdict", "weights", "config_status")] == [
        "differ", "same", "conflict",
    ]  # fmt: skip
    (line,) = [line for line in found["config"] if line["status"] == "conflict"]
    assert line["name_a"] == "rope_theta"
    assert line["fix"] == "--rotary-base 10000"
    assert main([*command, "--json", "-", "--ignore-config"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[key] for key in ("verdict", "weights", "config_status")] == [
        "same", "same", "ignored",
    ]  # fmt: skip


def test_the_summary_and_the_pages_say_what_conflicts_and_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_demo(tmp_path / "demo", fault="rope-base")
    texts = []
    for ending in ("md", "html"):
        page = tmp_path / f"page.{ending}"
        assert main(["diff", str(a), str(b), "--jobs", "1", "--report", str(page)]) == 1
        texts += [page.read_text(), capsys.readouterr().out]
    for text in texts:
        assert "rope_theta 10000" in text
        assert "rotary_base 20000" in text
        assert "--rotary-base 10000" in text
    assert texts[1].endswith("verdict: differ (weights: same, the configs conflict)\n")


def test_a_summary_without_configs_says_that_they_are_unknown() -> None:
    assert summarise([], side(None), side(None)).config_status == "unknown"
