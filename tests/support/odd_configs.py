"""Odd configs of every model type: what a config.json may say that its class does not by default.

By transformers' model type: name of the oddity to what differs from `families.MODELS`.
"""

from __future__ import annotations

from typing import Any

THETA = {"rope_theta": 5000.0}


def rope(kind: str = "default", **more: Any) -> dict[str, Any]:
    """Return rotary settings as transformers 5 holds them."""
    return {"rope_parameters": {"rope_type": kind, **THETA, **more}}


LINEAR = rope("linear", factor=4.0)
LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
LLAMA3_SHORT = rope(
    "llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
DYNAMIC = rope("dynamic", factor=4.0)
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
EPSILON = {"rms_norm_eps": 3e-3}
GELU = {"hidden_act": "gelu"}
RELU = {"hidden_act": "relu"}
WINDOW = {"sliding_window": 8}
NO_WINDOW = {"sliding_window": None}
HALF = rope(partial_rotary_factor=0.5)
MANY_GROUPS = {"num_key_value_heads": 4}
BIASED = {"attention_bias": True}
PLAIN = {"attention_bias": False, "mlp_bias": False}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
SUMMED = {"norm_topk_prob": True}
UNSUMMED = {"norm_topk_prob": False}
SOME_DENSE = {"mlp_only_layers": [0]}
GROUPS = {"n_group": 2, "topk_group": 1}
_FULL = {"rope_type": "default", "rope_theta": 5000.0}
GEMMA3_ROPE = {"rope_parameters": {"full_attention": _FULL, "sliding_attention": _FULL}}
GEMMA3_LINEAR = {
    "rope_parameters": {
        "full_attention": {**_FULL, "rope_type": "linear", "factor": 4.0},
        "sliding_attention": _FULL,
    }
}
ALL_FULL = {"layer_types": ["full_attention", "full_attention"]}
ALL_WINDOWED = {"layer_types": ["sliding_attention", "sliding_attention"], **WINDOW}

ODD: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "plain": PLAIN,
        "llama3": {**PLAIN, **LLAMA3, **TIED},
        "llama3-short": {**PLAIN, **LLAMA3_SHORT},
        "linear": {**PLAIN, **LINEAR, **EPSILON},
        "yarn": {**PLAIN, **YARN},
        "gelu": {**PLAIN, **GELU},
        "half-biased": {"attention_bias": True, "mlp_bias": False},
        "mlp-biased": {"attention_bias": False, "mlp_bias": True},
        "half-rotated": {**PLAIN, **HALF},
    },
    "mistral": {
        "window": {**WINDOW, **rope()},
        "no-window": NO_WINDOW,
        "tied": {**TIED, **WINDOW},
        "linear": {**LINEAR, **NO_WINDOW},
        "gelu": GELU,
    },
    "qwen2": {
        "tied": {**TIED, **rope()},
        "window": QWEN_WINDOW,
        "yarn": YARN,
        "epsilon": EPSILON,
        "relu": RELU,
    },
    "qwen3": {
        "tied": {**TIED, **rope()},
        "window": QWEN_WINDOW,
        "biased": BIASED,
        "yarn": YARN,
        "gelu": GELU,
    },
    "seed_oss": {
        "qkv-biased": {"attention_out_bias": False, "mlp_bias": False},
        "attention-biased": {"mlp_bias": False},
        "plain": {**PLAIN, "attention_out_bias": False},
        "tied": TIED,
        "yarn": YARN,
        "many-groups": MANY_GROUPS,
    },
    "ernie4_5": {
        "plain": {"use_bias": False, **rope()},
        "null-bias": {"use_bias": None},
        "untied": UNTIED,
        "linear": LINEAR,
        "many-groups": MANY_GROUPS,
    },
    "smollm3": {
        "untied": {**UNTIED, **rope()},
        "every-fourth": {"num_hidden_layers": 4, "no_rope_layer_interval": 4},
        "all-rotated": {"no_rope_layers": [1, 1]},
        "windows": {**WINDOW, "use_sliding_window": True},
        "biased": {**BIASED, "mlp_bias": True},
        "yarn": YARN,
    },
    "mixtral": {
        "window": {**WINDOW, **rope()},
        "top-1": {"num_experts_per_tok": 1},
        "tied": TIED,
        "gelu": GELU,
        "linear": LINEAR,
    },
    "qwen2_moe": {
        "summed": {**SUMMED, **rope()},
        "unsummed": UNSUMMED,
        "unbiased": {"qkv_bias": False},
        "some-dense": SOME_DENSE,
        "window": QWEN_WINDOW,
    },
    "qwen3_moe": {
        "summed": {**SUMMED, **rope()},
        "unsummed": UNSUMMED,
        "biased": BIASED,
        "some-dense": {"decoder_sparse_step": 2},
        "window": {"use_sliding_window": True, **WINDOW},
    },
    "deepseek_v2": {
        "no-queries": {"q_lora_rank": None},
        "scaled": {"routed_scaling_factor": 2.5, **SUMMED},
        "groups": {**GROUPS, "topk_method": "group_limited_greedy"},
        "halves": {"rope_interleave": False},
        "yarn": {**YARN, "n_shared_experts": 1},
    },
    "deepseek_v3": {
        "no-queries": {"q_lora_rank": None},
        "scaled": {"routed_scaling_factor": 1.5, **UNSUMMED},
        "groups": GROUPS,
        "halves": {"rope_interleave": False, "first_k_dense_replace": 0},
        "yarn": YARN,
    },
    "glm4_moe_lite": {
        "no-queries": {"q_lora_rank": None},
        "scaled": {"routed_scaling_factor": 1.5, **SUMMED},
        "groups": GROUPS,
        "halves": {"rope_interleave": False},
        "tied": TIED,
    },
    "gpt2": {
        "untied": UNTIED,
        "gelu": {"activation_function": "gelu"},
        "relu": {"activation_function": "relu"},
        "scaled": {"scale_attn_by_inverse_layer_idx": True},
        "unscaled": {"scale_attn_weights": False, "layer_norm_epsilon": 3e-3},
    },
    "nemotron": {
        "tied": {**TIED, "norm_eps": 3e-3},
        "gelu": GELU,
        "biased": {"attention_bias": True, "mlp_bias": True},
        "rotated": rope(partial_rotary_factor=1.0),
        "silu": {"hidden_act": "silu"},
    },
    "gemma": {
        "untied": UNTIED,
        "gelu": GELU,
        "biased": BIASED,
        "epsilon": {**EPSILON, **rope()},
        "groups": MANY_GROUPS,
    },
    "gemma2": {
        "uncapped": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "window": WINDOW,
        "scale": {"query_pre_attn_scalar": 24},
        "full": ALL_FULL,
        "untied": UNTIED,
    },
    "gemma3_text": {
        "one-base": GEMMA3_ROPE,
        "linear": GEMMA3_LINEAR,
        "window": ALL_WINDOWED,
        "scale": {"query_pre_attn_scalar": 24},
        "untied": UNTIED,
    },
    "gpt_oss": {
        "unbiased": {"attention_bias": False},
        "window": WINDOW,
        "full": ALL_FULL,
        "default-rope": rope(),
        "top-1": {"num_experts_per_tok": 1},
    },
    "glm4_moe": {
        "no-norm": {"use_qk_norm": False, "attention_bias": False},
        "scaled": {"routed_scaling_factor": 1.5, **SUMMED},
        "unsummed": UNSUMMED,
        "groups": GROUPS,
        "rotated": rope(partial_rotary_factor=1.0),
    },
    "olmo2": {
        "tied": {**TIED, **rope()},
        "groups": MANY_GROUPS,
        "gelu": GELU,
        "linear": LINEAR,
        "epsilon": EPSILON,
    },
    "olmo3": {
        "window": WINDOW,
        "window-yarn": {**WINDOW, **YARN},
        "full": ALL_FULL,
        "yarn": {"rope_parameters": {**YARN["rope_parameters"], "attention_factor": 1.0}},
        "tied": TIED,
        "groups": MANY_GROUPS,
    },
    "exaone4": {
        "window": WINDOW,
        "no-window": {**NO_WINDOW, **ALL_FULL},
        "full": {**ALL_FULL, **WINDOW},
        "tied": TIED,
        "one-head": {"num_key_value_heads": 1},
    },
    "olmoe": {
        "summed": {**SUMMED, **rope()},
        "clipped": {"clip_qkv": 0.05},
        "biased": BIASED,
        "tied": TIED,
        "groups": MANY_GROUPS,
    },
    "minimax_m2": {
        "half-rotated": HALF,
        "rotated-channels": {"rotary_dim": 8},
        "tied": TIED,
        "gelu": GELU,
        "linear": LINEAR,
        "many-groups": MANY_GROUPS,
    },
    "phi3": {
        "window": {**WINDOW, **rope()},
        "half-rotated": HALF,
        "tied": TIED,
        "gelu": GELU,
        "epsilon": EPSILON,
    },
    "gpt_neox": {
        "sequential": {"use_parallel_residual": False},
        "unbiased": {"use_parallel_residual": False, "attention_bias": False},
        "tied": {"use_parallel_residual": False, **TIED},
        "rotated": {"use_parallel_residual": False, **rope(partial_rotary_factor=1.0)},
        "tanh": {"use_parallel_residual": False, "hidden_act": "gelu_new"},
    },
    "nemotron_h": {
        "no-latent": {"moe_latent_size": None},
        "biased": {"mlp_bias": True},
        "scaled": {"routed_scaling_factor": 1.5},
        "epsilon": {"layer_norm_epsilon": 3e-3},
        "groups": GROUPS,
    },
}
