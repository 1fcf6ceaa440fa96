"""Args on which no logit depends in evaluation, and why; those of rounding, and of training alone.

Source: megatron/core/transformer and megatron/core/model_parallel_config.py of 0.16.1 and 0.19.2.
Megatron-LM's args have other names for some of the fields; those stand beside them.
"""

from __future__ import annotations

from ckptdiff.config.effects.effect import Effect, always

NOTHING: dict[str, Effect] = always(
    "nothing",
    {
        "how the model is spread over processes": """
            tensor_model_parallel_size tensor_parallel_num_weight_shards gtp_weight_remat_size
            pipeline_model_parallel_size virtual_pipeline_model_parallel_size
            transformer_pipeline_model_parallel_size pipeline_model_parallel_split_rank
            encoder_tensor_model_parallel_size encoder_pipeline_model_parallel_size
            num_layers_per_virtual_pipeline_stage num_virtual_stages_per_pipeline_rank
            pipeline_model_parallel_comm_backend pipeline_model_parallel_layout
            num_layers_in_first_pipeline_stage decoder_first_pipeline_num_layers
            num_layers_in_last_pipeline_stage decoder_last_pipeline_num_layers
            account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split
            standalone_embedding_stage sequence_parallel context_parallel_size
            hierarchical_context_parallel_sizes hybrid_context_parallel cp_comm_type
            max_seqlen_per_dp_cp_rank expert_model_parallel_size expert_tensor_parallel_size
            expert_tensor_parallel_num_weight_shards expert_gtp_weight_remat_size moe_extended_tp
            microbatch_group_size_per_vp_stage mtp_standalone model_parallel_size
""",
        "how weights begin": """
            perform_initialization use_cpu_initialization init_method init_method_std
            init_method_xavier_uniform output_layer_init_method embedding_init_method
            embedding_init_method_std init_model_with_meta_device
""",
        "how processes exchange tensors": """
            tp_comm_overlap tp_comm_overlap_cfg tp_comm_bulk_wgrad tp_comm_bulk_dgrad
            tp_comm_overlap_ag tp_comm_overlap_rs tp_comm_overlap_rs_dgrad tp_comm_split_ag
            tp_comm_atomic_ag tp_comm_split_rs tp_comm_atomic_rs tp_comm_overlap_disable_qkv
            tp_comm_overlap_disable_fc1 tp_comm_bootstrap_backend overlap_moe_expert_parallel_comm
            overlap_p2p_comm batch_p2p_comm batch_p2p_sync use_ring_exchange_p2p
            overlap_p2p_comm_warmup_flush variable_seq_lengths symmetric_ar_type
            nccl_all_reduce_for_prefill async_tensor_model_parallel_allreduce
            clone_scatter_output_in_embedding scatter_embedding_sequence_parallel parallel_output
            high_priority_a2a_comm_stream
""",
        "how tokens get to experts": """
            moe_token_dispatcher_type moe_enable_deepep moe_flex_dispatcher_backend
            moe_flex_dispatcher_num_sms moe_deepep_num_sms moe_hybridep_num_sms
            moe_hybridep_num_sms_preprocessing moe_hybridep_num_blocks_permute
            moe_hybridep_num_blocks_unpermute moe_hybridep_pad_uneven_dispatch_inputs
            moe_permute_fusion_into_hybridep moe_ncclep_static_shape moe_ncclep_zero_copy
            moe_shared_expert_overlap moe_pad_expert_input_to_capacity
            moe_pad_experts_for_cuda_graph_inference moe_router_padding_for_quantization
            moe_router_padding_for_fp8 inference_moe_token_dispatcher_type
""",
        "which kernel computes it": """
            transformer_impl attention_backend flash_attention_version use_flash_attn
            masked_softmax_fusion bias_dropout_fusion apply_rope_fusion fused_single_qkv_rope
            persist_layer_norm no_persist_layer_norm memory_efficient_layer_norm
            fused_residual_rmsnorm use_fused_weighted_squared_relu mla_down_proj_fusion
            moe_grouped_gemm moe_use_legacy_grouped_gemm moe_single_grouped_weight
            moe_single_grouped_bias use_grouped_gemm_for_dense_mlp moe_permute_fusion
            moe_router_fusion use_mamba_mem_eff_path disable_mamba_mem_eff_path dsa_kernel_backend
            deterministic_mode batch_invariant_mode mlp_chunks_for_prefill mlp_chunks_for_training
            use_transformer_engine_full_layer_spec mamba_stack_spec
            moe_use_grouped_tensor batch_invariant_backend gdp_cutedsl_kernel disable_jit_fuser
            onnx_safe
""",
        "of inference, how it is made fast": """
            flash_decode inference_rng_tracker inference_sampling_seed
            use_inference_optimized_layers inference_fuse_tp_communication
            inference_disable_triton_nvls_kernels inference_grouped_gemm_backend
            inference_moe_disable_fused_quant_kernels inference_cuda_graph_scope cache_mla_latents
""",
        "what is kept, moved or computed again for the backward pass": """
            recompute_granularity recompute_method recompute_num_layers recompute_modules
            recompute_activations checkpoint_activations distribute_saved_activations
            moe_layer_recompute mhc_recompute_layer_num gdp_num_chunk_states_to_recompute
            cpu_offloading cpu_offloading_num_layers _cpu_offloading_context
            cpu_offloading_activations cpu_offloading_weights cpu_offloading_double_buffering
            cpu_offloading_retain_pinned_cpu_buffers fine_grained_activation_offloading
            fine_grained_offloading_max_inflight_offloads offload_modules min_offloaded_tensor_size
            delay_offload_until_cuda_graph delta_offload_bytes_across_pp_ranks
            activation_offload_fraction moe_paged_stash moe_paged_stash_page_size
            moe_paged_stash_buffer_size_factor_cuda moe_paged_stash_buffer_size_factor_cpu
            activation_func_fp8_input_store deallocate_pipeline_outputs
            num_microbatches_with_partial_activation_checkpoints
            ep_overlap_early_attn_memory_release disable_parameter_transpose_cache
""",
        "of CUDA graphs": """
            enable_cuda_graph external_cuda_graph cuda_graph_impl cuda_graph_modules
            cuda_graph_scope cuda_graph_scope_deprecated cuda_graph_use_single_mempool
            cuda_graph_retain_backward_graph cuda_graph_warmup_steps use_te_rng_tracker
            te_rng_tracker
""",
        "of gradients and the optimizer": """
            timers finalize_model_grads_func grad_scale_func moe_grad_scale_func mtp_grad_scale_func
            experimental_attention_variant_loss_scale_func no_sync_func grad_sync_func
            param_sync_func gradient_accumulation_fusion delay_wgrad_compute
            overlap_dispatch_backward_with_experts_wgrad defer_embedding_wgrad_compute
            wgrad_deferral_limit barrier_with_L1_time
""",
        "the loss, of logits that are there": """
            cross_entropy_loss_fusion cross_entropy_fusion_impl fp16_lm_cross_entropy
""",
        "predicts tokens behind the next one, with layers of its own": """
            mtp_use_repeated_layer mtp_hybrid_override_pattern mtp_hsm mtp_enabled
            num_speculative_tokens
""",
        "what is logged or checked": """
            config_logger_dir moe_per_layer_logging log_max_attention_logit test_mode
            moe_enable_routing_replay hetereogenous_dist_checkpoint
""",
        "how tensors are named": "use_legacy_models",
        "no release reads it": "moe_token_dropping add_position_embedding",
    },
)

_LOW = "products are computed in 8 or 4 bits, which rounds more than what is compared here"
ROUNDING: dict[str, Effect] = {
    **always(
        "rounding",
        {
            "numbers are held in another dtype": """
                fp16 bf16 params_dtype pipeline_dtype enable_autocast autocast_dtype
                fp32_residual_connection attention_softmax_in_fp32 apply_query_key_layer_scaling
                disable_bf16_reduced_precision_matmul mamba_training_ssm_states_dtype logit_dtype
                moe_dispatch_fwd_dtype moe_combine_bwd_dtype
""",
            "how products in 8 or 4 bits are computed": """
                fp8_recipe fp8_param fp8_param_gather fp8_quantizer_factory fp8_margin fp8_interval
                fp8_amax_history_len fp8_amax_compute_algo fp8_wgrad fp8_output_proj
                fp8_dot_product_attention fp8_multi_head_attention tp_only_amax_red
                keep_fp8_transpose_cache keep_fp8_transpose_cache_when_using_custom_fsdp
                first_last_layers_bf16 num_layers_at_start_in_bf16 num_layers_at_end_in_bf16
                use_kitchen use_kitchen_attention kitchen_attention_backend kitchen_recipe_number
                fp4_recipe fp4_param fp4_param_gather fp4_quantizer_factory export_quant_cfg
                export_real_quant_cfg export_kv_cache_quant
""",
        },
    ),
    **always(
        "rounding",
        {
            _LOW: """
                fp8 fp4 quant_recipe kitchen_config_file te_precision_config_file modelopt_enabled
                restore_modelopt_state
"""
        },
        noted=True,
    ),
}

TRAINING: dict[str, Effect] = always(
    "training",
    {
        "training drops numbers at random, evaluation does not": "hidden_dropout attention_dropout",
        "is of a loss, or of how experts are balanced": """
            moe_aux_loss_coeff moe_z_loss_coeff moe_router_bias_update_rate
            moe_router_quantile_balancing_ema mtp_loss_scaling_factor mtp_detach_heads
            dsa_indexer_loss_coeff dsa_indexer_use_sparse_loss calculate_per_token_loss
        """,
        "clips weights after a step": "qk_clip qk_clip_alpha qk_clip_threshold",
        "positions, masks and losses of training begin anew behind a document": """
            reset_position_ids reset_attention_mask eod_mask_loss
            dataloader_inter_document_masking
        """,
    },
)
