"""Args that the forward pass computes, or that lines of the config table state.

They are named as fields of megatron-core's TransformerConfig and MLATransformerConfig and as
Megatron-LM's args, which have other names for some.
"""

from __future__ import annotations

from ckptdiff.config.effects.effect import Effect, always, computed_at

COMPUTED: dict[str, Effect] = {
    **always(
        "computed",
        {
            "classes and functions": "_target_ _builder_ transformer model transformer_layer_spec",
            "sizes": """
                num_layers encoder_num_layers hidden_size ffn_hidden_size num_attention_heads
                num_query_groups group_query_attention kv_channels vocab_size padded_vocab_size
                max_position_embeddings make_vocab_size_divisible_by
                untie_embeddings_and_output_weights share_embeddings_and_output_weights
""",
            "norms": """
                layernorm_epsilon norm_epsilon layernorm_zero_centered_gamma apply_layernorm_1p
                qk_layernorm normalization
""",
            "biases": "add_bias_linear add_qkv_bias",
            "activation": """
                activation_func gated_linear_unit swiglu squared_relu quick_geglu glu_linear_offset
                activation_func_clamp_value bias_activation_fusion bias_gelu_fusion
                bias_swiglu_fusion
""",
            "attention": """
                softmax_scale window_size window_attn_skip_freq attention_output_gate
                multi_latent_attention q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim
                v_head_dim
""",
            "caps": "attn_logit_softcapping final_logit_softcapping",
            "positions": """
                position_embedding_type use_rotary_position_embeddings rotary_base rotary_percent
                rotary_interleaved rotary_seq_len_interpolation_factor seq_len_interpolation_factor
                use_rope_scaling rope_scaling rope_scaling_factor scale_factor low_freq_factor
                high_freq_factor old_context_len no_rope_freq rope_type rotary_scaling_factor
                original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim
                yarn_original_max_position_embeddings yarn_beta_fast yarn_beta_slow
                yarn_correction_range_round_to_int yarn_rotary_scaling_factor yarn_mscale
                yarn_mscale_all_dim
""",
            "experts": """
                num_moe_experts num_experts moe_layer_freq moe_ffn_hidden_size
                moe_shared_expert_intermediate_size moe_shared_expert_gate moe_latent_size
                moe_mlp_glu_interleave_size moe_shared_expert_glu_interleave_size
                use_grouped_gemm_for_shared_expert
""",
            "routing": """
                moe_router_topk moe_router_score_function moe_router_num_groups
                moe_router_group_topk moe_router_topk_limited_devices moe_router_pre_softmax
                moe_router_topk_scaling_factor moe_router_enable_expert_bias moe_router_dtype
""",
            "layers of other kinds": """
                is_hybrid_model hybrid_override_pattern hybrid_layer_pattern linear_attention_freq
                linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim
                linear_num_key_heads linear_num_value_heads mamba_state_dim mamba_head_dim
                mamba_num_groups mamba_num_heads
""",
            "layers that predict tokens behind the next one": "mtp_num_layers",
            "the config.json that a conversion carries": "hf_config",
        },
    ),
    # Of these, the values that a line of the config table tells apart.
    "softmax_type": computed_at("attention has another softmax", "vanilla", "learnable"),
    "experimental_attention_variant": computed_at(
        "attention is of another kind", "gated_delta_net"
    ),
    "moe_router_load_balancing_type": computed_at(
        "experts are chosen and weighted in another way",
        *("none", "aux_loss", "seq_aux_loss", "global_aux_loss"),  # losses of training
    ),
}
