"""How Megatron-LM is started from a checkpoint: what it does not take over from its args."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import ConfigSide
from ckptdiff.config.fields.base import flags

if TYPE_CHECKING:
    from collections.abc import Mapping

LATENT_ONLY = (
    *("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"),
    *("rope_type", "rotary_scaling_factor", "mscale", "mscale_all_dim"),
)
# Args that Megatron-LM's load_args_from_checkpoint (megatron/training/checkpointing.py) leaves to
# the command line, and their default there; None if releases differ in it.
NOT_TAKEN_OVER: dict[str, Any] = {
    "norm_epsilon": 1e-5,
    "qk_layernorm": False,
    "quick_geglu": False,
    "softmax_scale": None,
    "softmax_type": None,
    "bias_gelu_fusion": True,
    "window_size": None,
    "window_attn_skip_freq": None,
    "use_rope_scaling": False,
    "rope_scaling_factor": None,
    "rotary_seq_len_interpolation_factor": None,
    "multi_latent_attention": False,
    **dict.fromkeys(LATENT_ONLY),
    "moe_shared_expert_gate": False,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "experimental_attention_variant": None,
    "attention_output_gate": False,
    "linear_attention_freq": None,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "pipeline_model_parallel_layout": None,
    "make_vocab_size_divisible_by": 128,
    "bf16": False,
    "fp16": False,
}


def flags_to_give(args: Mapping[str, Any]) -> str | None:
    """Return the flags that Megatron-LM does not take over from args; None if defaults will do."""
    gated = args.get("swiglu") or args.get("squared_relu") or args.get("quick_geglu")
    latent = args.get("multi_latent_attention")
    given = {}
    for name, default in NOT_TAKEN_OVER.items():
        value = args.get(name, default)
        without_effect = (
            (name == "bias_gelu_fusion" and gated)
            or (name == "rope_scaling_factor" and not args.get("use_rope_scaling"))
            or (name in LATENT_ONLY and not latent)
        )
        if value != default and value is not None and not without_effect:
            given[name] = value
    return flags(given, ConfigSide("megatron", {}, None, frozenset()))
