"""Which linear layers a program builds without a bias: one that is stored is then not added.

Layers are named as in a layer of each program's own checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# The fields that switch the biases of q, k and v, by model type, and whether they are on if absent;
# other classes have none there. Those of GPT-2 have all, under other names.
_QKV_FIELDS = {
    **dict.fromkeys(
        (
            *(
                "llama",
                "smollm3",
                "qwen3",
                "qwen3_moe",
                "nemotron",
                "gemma",
                "gemma2",
                "gemma3_text",
            ),
            *("olmo2", "olmo3", "olmoe", "deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite"),
            *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
        ),
        ("attention_bias", False),
    ),
    **dict.fromkeys(("gpt_oss", "gpt_neox", "seed_oss"), ("attention_bias", True)),
    "qwen2": (None, True),
    "qwen2_moe": ("qkv_bias", True),
}
# Classes whose `attention_bias` is of q, k and v alone.
_PLAIN_OUTPUT = ("glm4_moe",)
# The fields of classes that switch the bias of attention's output by itself; off if absent.
_OUTPUT_FIELDS = {"seed_oss": "attention_out_bias"}
_MLP_BIASES = ("llama", "seed_oss", "smollm3", "nemotron", "nemotron_h", "deepseek_v2")
_HF_QKV = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "qkv", "q_a")),
    *("self_attn.kv_a_proj_with_mqa", "attention.query_key_value"),
)
_HF_OUTPUT = ("self_attn.o_proj", "attention.dense")
# Of classes with latent attention, which have no bias there whatever the config says.
_LATENT_CLASSES = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
_HF_LATENT = tuple(f"self_attn.{name}_proj" for name in ("q", "q_b", "kv_b"))
_HF_MLP = (
    *(
        f"mlp.{part}{name}_proj"
        for part in ("", "shared_expert.", "shared_experts.")
        for name in ("gate", "up", "down", "gate_up")
    ),
    *(f"mlp.{name}_latent_proj" for name in ("fc1", "fc2")),
)
_HF_EXPERTS = ("mlp.gate", "mlp.router", "mlp.experts")
_HF_DELTA_NET = ("linear_attn.conv1d", "linear_attn.out_proj")
_HF_MAMBA = ("mixer.in_proj", "mixer.out_proj")

_QKV = "self_attention.linear_qkv"
_LINEAR = (
    *("self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"),
    *("mlp.router", "mlp.experts"),
)
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
    field, by_default = _QKV_FIELDS.get(family, (None, False))
    has_qkv = by_default if field is None else config.get(field, by_default)
    has_output = field == "attention_bias" and has_qkv and family not in _PLAIN_OUTPUT
    if family in _OUTPUT_FIELDS:
        has_output = bool(config.get(_OUTPUT_FIELDS[family]))
    found = _HF_DELTA_NET if has_qkv else (*_HF_DELTA_NET, *_HF_QKV)
    if not has_output:
        found = (*found, *_HF_OUTPUT)
    if family in _LATENT_CLASSES:
        found = (*found, *_HF_LATENT)
    if family != "gpt_oss":
        found = (*found, *_HF_EXPERTS)
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
