"""Which linear layers a program builds without a bias: one that is stored is then not added.

Layers are named as in a layer of each program's own checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Which classes have biases, by model type, and the fields that switch them. The other classes have
# none; those of GPT-2 have all, under other names.
_OUTPUT_BIASES = (
    *("llama", "qwen3", "qwen3_moe", "deepseek_v3", "nemotron"),
    *("gemma", "gemma2", "gemma3_text", "olmo2"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)
_QKV_FIELDS = {**dict.fromkeys(_OUTPUT_BIASES, "attention_bias"), "qwen2_moe": "qkv_bias"}
_MLP_BIASES = ("llama", "nemotron", "nemotron_h")
_HF_QKV = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "qkv", "q_a")),
    "self_attn.kv_a_proj_with_mqa",
)
_HF_MLP = (
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down", "gate_up", "fc1_latent", "fc2_latent")),
    *(f"mlp.shared_experts.{name}_proj" for name in ("up", "down")),
)
_HF_DELTA_NET = ("linear_attn.conv1d", "linear_attn.out_proj")
_HF_MAMBA = ("mixer.in_proj", "mixer.out_proj")

_QKV = "self_attention.linear_qkv"
_LINEAR = ("self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
_NEVER = (
    *(
        f"self_attention.linear_{name}"
        for name in ("q_proj", "q_down_proj", "q_up_proj", "kv_down_proj", "kv_up_proj")
    ),
    *(f"self_attention.{name}" for name in ("in_proj", "out_proj", "conv1d")),  # gated DeltaNet
    *("mixer.in_proj", "mixer.out_proj"),  # Mamba
)


def absent_in_transformers(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the linear layers that the class builds without a bias, whatever is stored."""
    family = str(config["model_type"])
    field, by_default = _QKV_FIELDS.get(family), family in ("qwen2", "qwen2_moe")
    has_qkv = by_default if field is None else config.get(field, by_default)
    found = _HF_DELTA_NET if has_qkv else (*_HF_DELTA_NET, *_HF_QKV)
    if not (family in _OUTPUT_BIASES and config.get("attention_bias")):
        found = (*found, "self_attn.o_proj")
    if not (family in _MLP_BIASES and config.get("mlp_bias")):
        found = (*found, *_HF_MLP)
    if not config.get("use_bias"):
        found = (*found, *_HF_MAMBA)
    if not config.get("mamba_conv_bias", config.get("use_conv_bias", True)):
        found = (*found, "mixer.conv1d")
    return frozenset(found)


def absent_in_megatron(args: Mapping[str, Any]) -> frozenset[str]:
    """Return the linear layers that are built without a bias; none where no arg says it.

    Source: SelfAttention, MLASelfAttention and MLP of megatron.core.transformer; GatedDeltaNet
    and MambaMixer.
    """
    if args.get("add_bias_linear") is not False:
        return frozenset(_NEVER)
    found = (*_LINEAR, *_NEVER)
    return frozenset(found if args.get("add_qkv_bias") else (*found, _QKV))
