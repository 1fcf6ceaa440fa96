"""Which args of a checkpoint Megatron-LM's releases take over, and which need a flag: facts.

Source: `load_args_from_checkpoint` of megatron/training/checkpointing.py in the branches
core_r0.14.0, core_r0.16.0 and core_r0.19.0. A test holds that the config table sets no arg that is
in none of these tables: it would be lost without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.megatron_flags import RELEASES

if TYPE_CHECKING:
    from ckptdiff.config.programs import Version

LATENT = (
    *("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"),
    *("original_max_position_embeddings", "beta_fast", "beta_slow"),
)
DELTA = {
    "linear_attention_freq": None,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
# Args that are left to the command line by a release, and their default there; None: it is off, or
# has to be given.
NOT_TAKEN_OVER: dict[str, Any] = {
    "norm_epsilon": 1e-5,
    "apply_layernorm_1p": False,
    "qk_layernorm": False,
    "quick_geglu": False,
    "glu_linear_offset": 0.0,
    "activation_func_clamp_value": None,
    "softmax_scale": None,
    "softmax_type": "vanilla",
    "bias_gelu_fusion": True,
    "window_size": None,
    "window_attn_skip_freq": None,
    "no_rope_freq": None,
    "use_rope_scaling": False,
    "rope_scaling_factor": 8.0,
    "rotary_seq_len_interpolation_factor": None,
    "multi_latent_attention": False,
    **dict.fromkeys(LATENT),
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "rotary_scaling_factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
    "yarn_original_max_position_embeddings": 4096,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_correction_range_round_to_int": True,
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "moe_router_topk_scaling_factor": None,
    "moe_shared_expert_gate": False,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_latent_size": None,
    "mtp_num_layers": None,
    "experimental_attention_variant": None,
    "attention_output_gate": False,
    **DELTA,
    "bf16": False,
    "fp16": False,
}
_BY_ALL = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "seq_length", "num_attention_heads"),
    *("num_query_groups", "group_query_attention", "kv_channels", "max_position_embeddings"),
    *("position_embedding_type", "add_position_embedding", "use_rotary_position_embeddings"),
    *("rotary_base", "rotary_percent", "rotary_interleaved", "add_bias_linear", "add_qkv_bias"),
    *("squared_relu", "swiglu", "untie_embeddings_and_output_weights", "normalization"),
    *("apply_query_key_layer_scaling", "attention_dropout", "hidden_dropout", "num_experts"),
    *("moe_layer_freq", "moe_ffn_hidden_size", "moe_router_topk", "moe_router_pre_softmax"),
    *("moe_grouped_gemm", "moe_shared_expert_intermediate_size", "mamba_state_dim"),
    *("mamba_head_dim", "mamba_num_groups", "mamba_num_heads", "padded_vocab_size"),
    # 0.19 makes its hybrid_layer_pattern of the pattern, and takes any model with one as hybrid.
    *("hybrid_override_pattern", "is_hybrid_model"),
)
# The releases that take each over. `apply_layernorm_1p` is called otherwise since 0.16, where
# load_args_from_checkpoint goes on with the old name.
TAKEN_OVER: dict[str, tuple[Version, ...]] = {
    **dict.fromkeys(_BY_ALL, RELEASES),
    "apply_layernorm_1p": ("0.14",),
    "moe_router_score_function": ("0.16", "0.19"),
    "moe_router_enable_expert_bias": ("0.16", "0.19"),
    "moe_router_topk_scaling_factor": ("0.16", "0.19"),
    "moe_latent_size": ("0.16", "0.19"),
    "mtp_num_layers": ("0.19",),
}
# Args that need neither, and why.
_GIVEN = "the command gives it"
_SPREAD = "how the model is spread, not what it computes"
_TOKENS = "the tokenizer's"
_RUN = "of a training run"
NEEDS_NOTHING: dict[str, str] = {
    **dict.fromkeys(("transformer_impl", "use_legacy_models", "ckpt_format"), _GIVEN),
    **dict.fromkeys(("tokenizer_type", "tokenizer_model", "vocab_size"), _TOKENS),
    "make_vocab_size_divisible_by": "padded_vocab_size counts",
    **dict.fromkeys(
        (
            *("tensor_model_parallel_size", "pipeline_model_parallel_size"),
            *("expert_model_parallel_size", "expert_tensor_parallel_size", "sequence_parallel"),
            *("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank"),
            *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"),
            "pipeline_model_parallel_layout",
        ),
        _GIVEN,
    ),
    **dict.fromkeys(
        (
            *("context_parallel_size", "virtual_pipeline_model_parallel_size"),
            *("transformer_pipeline_model_parallel_size", "data_parallel_random_init"),
            "account_for_embedding_in_pipeline_split",
            "account_for_loss_in_pipeline_split",
        ),
        _SPREAD,
    ),
    **dict.fromkeys(
        (
            *("consumed_train_samples", "consumed_valid_samples", "no_save_optim", "no_save_rng"),
            "use_dist_ckpt",
        ),
        _RUN,
    ),
    "encoder_num_layers": "num_layers under an older name",
    "attention_softmax_in_fp32": "a precision; the default is the wider one",
    "openai_gelu": "no builder of core models reads it",
    "rope_type": "yarn unless it is given, which by a factor of 1 scales as no scaling does",
    "hf_config": "of this tool: Megatron ignores it",
}
