"""Which keys of config.json change the logits of transformers' classes, by model type.

Found by running each class of transformers 5 with every key changed; a test does so again. A key
that is not listed for a model type may stand in its config.json and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Inside `rope_parameters` or `rope_scaling`; by kind of layer in classes with two kinds.
ROPE_KEYS = frozenset(
    {
        *("rope_type", "rope_theta", "factor", "partial_rotary_factor", "attention_factor"),
        *("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        *("short_factor", "long_factor"),
    }
)
_ALL = frozenset({"vocab_size", "hidden_size", "num_attention_heads", "is_causal"})
_DEEP = _ALL | {"num_hidden_layers", "max_position_embeddings", "tie_word_embeddings"}
_TWO_ROPES = _DEEP | {
    *("rope_parameters", "rope_scaling", "rope_theta", "num_key_value_heads", "head_dim"),
    *("rms_norm_eps", "intermediate_size", "partial_rotary_factor"),
}
_ROTARY = _TWO_ROPES | {"original_max_position_embeddings"}
_LLAMA = _ROTARY | {"hidden_act"}
_BIASED = _LLAMA | {"attention_bias"}
_WINDOW = frozenset({"sliding_window", "layer_types"})
_QWEN = frozenset({"sliding_window", "use_sliding_window"})
_CHOSEN = frozenset({"num_experts_per_tok"})
_EXPERTS = _CHOSEN | {"num_experts", "moe_intermediate_size"}
_SOME_DENSE = frozenset({"decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"})
_SHARED = frozenset({"shared_expert_intermediate_size"})
_GROUPS = _CHOSEN | {
    *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "routed_scaling_factor"),
    *("n_group", "topk_group", "partial_rotary_factor"),
}
_DEEPSEEK = _BIASED | _GROUPS | {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"}
_DEEPSEEK_3 = _DEEPSEEK | {"num_local_experts", "norm_topk_prob", "rope_interleave"}
_DELTA = _BIASED | {
    *("layer_types", "partial_rotary_factor", "linear_conv_kernel_dim", "linear_key_head_dim"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim"),
}
_GEMMA_2 = _WINDOW | {
    *("attention_bias", "hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping"),
}
KEYS: dict[str, frozenset[str]] = {
    "llama": _BIASED | {"mlp_bias"},
    "mistral": _LLAMA | _WINDOW,
    "qwen2": _LLAMA | _QWEN | {"max_window_layers", "layer_types"},
    "qwen3": _BIASED | _QWEN | {"max_window_layers", "layer_types"},
    "seed_oss": _BIASED | {"attention_out_bias", "mlp_bias"},
    "ernie4_5": _LLAMA | {"use_bias"},
    "smollm3": _BIASED
    | _QWEN
    | {"mlp_bias", "layer_types", "no_rope_layers", "no_rope_layer_interval"},
    "mixtral": _LLAMA | _CHOSEN | {"num_local_experts", "sliding_window"},
    "qwen2_moe": _LLAMA
    | _QWEN
    | _EXPERTS
    | _SOME_DENSE
    | _SHARED
    | {"max_window_layers", "layer_types", "qkv_bias"},
    "qwen3_moe": _BIASED | _QWEN | _EXPERTS | _SOME_DENSE | {"num_local_experts"},
    "deepseek_v2": (_DEEPSEEK - {"head_dim"})
    | {"mlp_bias", "num_experts", "first_k_dense_replace", "qk_rope_head_dim", "topk_method"},
    "deepseek_v3": _DEEPSEEK_3 | {"first_k_dense_replace", "qk_rope_head_dim"},
    "glm4_moe_lite": _DEEPSEEK_3 | {"mlp_layer_types", "qk_rope_head_dim"},
    "gpt2": _DEEP
    | {
        *("n_layer", "n_embd", "n_head", "n_positions", "n_inner", "activation_function"),
        *("layer_norm_epsilon", "scale_attn_by_inverse_layer_idx", "scale_attn_weights"),
        "add_cross_attention",
    },
    "nemotron": (_BIASED - {"rms_norm_eps"}) | {"mlp_bias", "norm_eps", "partial_rotary_factor"},
    "gemma": _BIASED,
    "gemma2": _ROTARY | _GEMMA_2 | {"attn_logit_softcapping"},
    "gemma3_text": _TWO_ROPES | _GEMMA_2 | {"use_bidirectional_attention"},
    "gpt_oss": _ROTARY
    | _WINDOW
    | _CHOSEN
    | {"attention_bias", "num_local_experts", "swiglu_alpha", "swiglu_limit"},
    "glm4_moe": _BIASED
    | _GROUPS
    | {"first_k_dense_replace", "num_local_experts", "norm_topk_prob", "use_qk_norm"},
    "olmo2": _BIASED,
    "olmo3": _TWO_ROPES | _WINDOW | {"attention_bias", "hidden_act"},
    "exaone4": _LLAMA | _WINDOW | {"sliding_window_pattern"},
    "olmoe": _BIASED | _CHOSEN | {"clip_qkv", "norm_topk_prob", "num_experts", "num_local_experts"},
    "minimax_m2": _LLAMA | _CHOSEN | {"num_local_experts", "rotary_dim"},
    "phi3": _LLAMA | {"sliding_window", "partial_rotary_factor"},
    "gpt_neox": (
        _BIASED - {"num_key_value_heads", "rms_norm_eps", "rope_theta", "partial_rotary_factor"}
    )
    | {"layer_norm_eps", "rotary_emb_base", "rotary_pct", "use_parallel_residual"},
    "qwen3_next": _DELTA | _EXPERTS | _SOME_DENSE | _SHARED,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": (_DELTA - {"intermediate_size"}) | _EXPERTS | _SHARED,
    "nemotron_h": _ALL
    | _CHOSEN
    | {
        *("layers_block_type", "layer_types", "intermediate_size", "layer_norm_epsilon"),
        *("num_key_value_heads", "head_dim", "mlp_hidden_act", "mlp_bias", "use_bias"),
        *("mamba_num_heads", "mamba_head_dim", "mamba_hidden_act", "n_groups", "conv_kernel"),
        *("ssm_state_size", "time_step_min", "use_conv_bias", "moe_latent_size"),
        *("n_routed_experts", "num_local_experts", "moe_intermediate_size", "norm_topk_prob"),
        *("moe_shared_expert_intermediate_size", "n_group", "topk_group"),
        "routed_scaling_factor",
    },
}
# Model types whose classes compute the same of one config.json, but for the keys that one reads.
ALIKE = frozenset({"llama", "mistral"})
# Keys that count if another is on.
BESIDE = dict.fromkeys(("max_window_layers", "sliding_window"), "use_sliding_window")
# What a key means that a config.json leaves out, where no field of the table reads it; a key in
# braces is that key's value.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"head_dim": "{qk_rope_head_dim}"},
    "glm4_moe_lite": {"head_dim": "{qk_rope_head_dim}"},
}
# Keys that say nothing about what a model computes, or that are compared elsewhere, and why.
_RUN, _WROTE, _TRAINED = "of a run", "who wrote the file", "of training alone"
_CLASSIFIER, _GENERATION = "of classifiers", "of text that is generated"
SAYS_NOTHING: dict[str, str] = {
    **dict.fromkeys(("transformers_version", "_name_or_path", "_commit_hash"), _WROTE),
    **dict.fromkeys(("unsloth_version", "unsloth_fixed", "transformers.js_config"), _WROTE),
    **dict.fromkeys(("torch_dtype", "dtype", "quantization_config"), "compared with the tensors"),
    **dict.fromkeys(
        (
            *("use_cache", "return_dict", "output_attentions", "output_hidden_states"),
            *("output_router_logits", "pretraining_tp", "num_logits_to_keep", "ep_size"),
            *("attn_implementation", "_attn_implementation", "experts_implementation"),
            *("custom_pipelines", "tokenizer_class", "chunk_size_feed_forward", "torchscript"),
            *("_attn_implementation_autoset", "_attn_implementation_internal", "use_bfloat16"),
        ),
        _RUN,
    ),
    **dict.fromkeys(
        (
            *("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop"),
            *("initializer_range", "router_aux_loss_coef", "router_jitter_noise"),
            *("aux_loss_alpha", "seq_aux"),
        ),
        _TRAINED,
    ),
    **dict.fromkeys(
        (
            *("id2label", "label2id", "problem_type", "num_labels", "classifier_dropout"),
            *("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"),
            *("summary_proj_to_labels", "task_specific_params"),
        ),
        _CLASSIFIER,
    ),
    **dict.fromkeys(
        (
            *("do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
            *("length_penalty", "diversity_penalty", "max_length", "min_length", "num_beams"),
            *("num_beam_groups", "num_return_sequences", "no_repeat_ngram_size", "early_stopping"),
            *("encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
            *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
            *("remove_invalid_values", "exponential_decay_length_penalty"),
        ),
        _GENERATION,
    ),
}


def reads(model_type: Any, key: str) -> bool:
    """Return whether a class reads a key of its config.json; True if the class is not known."""
    known = KEYS.get(str(model_type))
    return known is None or key.partition(".")[0] in known


def default_of(config: Mapping[str, Any], key: str) -> Any:
    """Return what a class takes for a key that is left out; None if that is not known."""
    found = _DEFAULTS.get(str(config.get("model_type")), {}).get(key)
    if isinstance(found, str) and found.startswith("{"):  # the value of another key
        return config.get(found.strip("{}"))
    return found
