"""The files that Megatron-Bridge wants beside a distributed checkpoint: its config, and its state.

Bridge builds the model by the class that `run_config.yaml` names, and does not look at args.
Sources: megatron.bridge.training (model_load_save, checkpointing, state) and its model providers,
0.3.1 and the main branch of August 2026; core_transformer_config_from_args of Megatron-LM.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats.plain_yaml import TARGET, yaml_bytes
from ckptdiff.formats.run_config import BRIDGE, SPELLED, TIED
from ckptdiff.formats.torch_save import Data, saved_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Texts = tuple[tuple[str, bytes], ...]

STATE = "train_state.pt"
_GPT = "megatron.bridge.models.gpt_provider.GPTModelProvider"
_LATENT = "megatron.bridge.models.mla_provider.MLAModelProvider"
# Newer releases have it as another name of their HybridModelProvider.
_MAMBA = "megatron.bridge.models.mamba.mamba_provider.MambaModelProvider"
# The class that builds each family. Others are built by classes with layers and fields of their
# own, or not at all.
PROVIDERS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "nemotron", "glm4_moe"), _GPT
    ),
    "deepseek": _LATENT,
    "nemotron_h": _MAMBA,
}
# Fields that have the name of the arg, of any of the three classes.
_SAME = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "kv_channels"),
    *("normalization", "add_bias_linear", "add_qkv_bias", "qk_layernorm", "rotary_interleaved"),
    *("position_embedding_type", "rotary_base", "rotary_percent", "window_size", "mtp_num_layers"),
    *("window_attn_skip_freq", "no_rope_freq", "attention_dropout", "hidden_dropout", "fp16"),
    *("bf16", "softmax_scale", "softmax_type", "glu_linear_offset", "activation_func_clamp_value"),
    *("apply_query_key_layer_scaling", "attention_softmax_in_fp32"),
    *("moe_ffn_hidden_size", "moe_router_topk", "moe_layer_freq", "moe_router_pre_softmax"),
    *("moe_router_score_function", "moe_router_enable_expert_bias", "moe_router_num_groups"),
    *("moe_router_topk_scaling_factor", "moe_router_group_topk", "moe_shared_expert_gate"),
    *("moe_shared_expert_intermediate_size", "moe_latent_size"),
)
_OF_LATENT = (
    *("multi_latent_attention", "q_lora_rank", "kv_lora_rank", "qk_head_dim", "v_head_dim"),
    *("qk_pos_emb_head_dim", "rope_type", "rotary_scaling_factor", "mscale", "mscale_all_dim"),
    *("original_max_position_embeddings", "beta_fast", "beta_slow"),
)
_OF_MAMBA = (
    *("is_hybrid_model", "hybrid_override_pattern", "mamba_state_dim", "mamba_head_dim"),
    *("mamba_num_groups", "mamba_num_heads"),
)
_GPT_ALONE = ("rope_scaling_factor",)
_OF_CLASS = {_GPT: _GPT_ALONE, _LATENT: (*_GPT_ALONE, *_OF_LATENT), _MAMBA: _OF_MAMBA}
# What the classes call an arg. How layers are spread over stages is not written: those who load it
# choose.
_ELSEWHERE = (
    *("max_position_embeddings", "decoder_first_pipeline_num_layers"),
    "decoder_last_pipeline_num_layers",
)
_SPELLED = {arg: field for arg, field in SPELLED.items() if arg not in _ELSEWHERE}
_NOT_OF_MAMBA = ("use_rope_scaling",)
_BLOCK = {
    TARGET: "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec",
    "_partial_": True,
    "use_transformer_engine": True,
}
_SPREAD = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "expert_model_parallel_size": 1,
    "context_parallel_size": 1,
}


def bridge_texts(family: str, args: Mapping[str, Any], folder: str, iteration: int | str) -> Texts:
    """Return the small files that Bridge reads: in the folder of the iteration, and above it.

    Raises UnsupportedLayout for a family whose class in Bridge is not known, or a setting that its
    class has no field for.
    """
    step = iteration if isinstance(iteration, int) else 0
    state = saved_bytes(_state(step), STATE.removesuffix(".pt"))
    config = {
        "model": {name: _listed(value) for name, value in _model(family, args).items()},
        # No optimizer and no random state is beside the weights.
        "checkpoint": {"save_optim": False, "save_rng": False, "fully_parallel_save": True},
    }
    return (
        (f"{folder}/{STATE}", state),
        (f"{folder}/{BRIDGE}", yaml_bytes(config)),
        (f"latest_{STATE}", state),
    )


def _model(family: str, args: Mapping[str, Any]) -> dict[str, Any]:
    provider = PROVIDERS.get(family)
    if provider is None:
        raise UnsupportedLayout(
            f"{BRIDGE}: no class of Megatron-Bridge's is known that builds {family} models, only "
            f"those of {', '.join(sorted(PROVIDERS))}; choose no {BRIDGE}"
        )
    if provider == _MAMBA and "/" in str(args.get("hybrid_override_pattern")):
        raise UnsupportedLayout(f"{BRIDGE}: prediction layers of hybrid models cannot be written")
    if args.get("position_embedding_type") == "yarn":
        raise UnsupportedLayout(
            f"{BRIDGE}: YaRN without latent attention is a setting that Megatron-Bridge's releases "
            f"do not agree on; choose no {BRIDGE}"
        )
    fields: dict[str, Any] = {TARGET: provider}
    for arg in (*_SAME, *_OF_CLASS[provider]):
        if arg in args:
            fields[arg] = args[arg]
    for arg, field in _SPELLED.items():
        if arg in args and not (provider == _MAMBA and arg in _NOT_OF_MAMBA):
            fields[field] = args[arg]
    fields |= _SPREAD
    fields[TIED] = not args.get("untie_embeddings_and_output_weights", False)
    fields["seq_length"] = args.get("max_position_embeddings") or args.get("seq_length")
    if not args.get("group_query_attention"):
        fields["num_query_groups"] = args.get("num_attention_heads")
    else:
        fields["num_query_groups"] = args.get("num_query_groups")
    fields |= _vocabulary(args) | _activation(args)
    dtype = "bfloat16" if args.get("bf16") else "float16" if args.get("fp16") else "float32"
    fields["params_dtype"] = _named(f"torch.{dtype}")
    if provider != _MAMBA and (args.get("num_experts") or provider == _LATENT):
        # The classes' own choice has the same layer everywhere, and no latent attention.
        fields["transformer_layer_spec"] = _BLOCK
    if args.get("num_experts"):
        fields["moe_grouped_gemm"] = True
        fields["moe_token_dispatcher_type"] = "alltoall"  # noqa: S105 -- of tokens of text
    return fields


def _vocabulary(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the model: padded by Bridge, if that gives as many as are stored."""
    rows, padded = args.get("vocab_size"), args.get("padded_vocab_size")
    block = args.get("make_vocab_size_divisible_by")
    if rows and block and -(-rows // block) * block == padded:
        return {
            "vocab_size": rows,
            "make_vocab_size_divisible_by": block,
            "should_pad_vocab": True,
        }
    return {"vocab_size": padded or rows, "should_pad_vocab": False}


def _activation(args: Mapping[str, Any]) -> dict[str, Any]:
    functional, own = "torch.nn.functional.", "megatron.core.activations."
    if args.get("swiglu"):
        return {"gated_linear_unit": True, "activation_func": _named(f"{functional}silu")}
    if args.get("quick_geglu"):
        return {"gated_linear_unit": True, "activation_func": _named(f"{own}quick_gelu")}
    name = f"{own}squared_relu" if args.get("squared_relu") else f"{functional}gelu"
    return {"gated_linear_unit": False, "activation_func": _named(name)}


def _listed(value: Any) -> Any:
    """Return a value as YAML has it, whose sequences are lists."""
    return [_listed(one) for one in value] if isinstance(value, (list, tuple)) else value


def _named(name: str) -> dict[str, Any]:
    """Return how Bridge spells a function, or a class of dtype: it is looked up, not called."""
    return {TARGET: name, "_call_": False}


def _state(step: int) -> dict[str, Data]:
    """Return what `TrainState` of Bridge has to be loaded with: tensors of one value each."""
    numbers = {
        "step": step,
        "consumed_train_samples": 0,
        "skipped_train_samples": 0,
        "consumed_valid_samples": 0,
    }
    return {
        **{name: Data("I32", (), struct.pack("<i", n)) for name, n in numbers.items()},
        "floating_point_operations_so_far": Data("F64", (), struct.pack("<d", 0.0)),
        **{name: Data("BOOL", (), b"\0") for name in ("do_train", "do_valid", "do_test")},
    }
