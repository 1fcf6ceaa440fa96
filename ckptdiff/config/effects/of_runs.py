"""Args of a run, not of a model: what the argument parsers of Megatron-LM hold beside those.

Source: `add_megatron_arguments` of megatron/training/arguments.py in the branches core_r0.14.0,
core_r0.16.0, core_r0.19.0 and main, called with an `argparse.ArgumentParser` whose actions were
listed; and what megatron/training sets in the args beside. Some are of older releases.
"""

from __future__ import annotations

from ckptdiff.config.effects.effect import Effect, always

OF_RUNS: dict[str, Effect] = always(
    "nothing",
    {
        "of other models: BERT, T5, RETRO and vision": """
            bert_binary_head bert_embedder_type bert_load biencoder_projection_dim
            biencoder_shared_query_context_model block_data_path class_token_present
            classes_fraction data_per_class_fraction decoder_num_layers decoder_seq_length
            dino_bottleneck_size dino_freeze_last_layer dino_head_hidden_size
            dino_local_crops_number dino_local_img_size dino_norm_last_layer dino_teacher_temp
            dino_warmup_teacher_temp dino_warmup_teacher_temp_epochs embedding_path
            encoder_seq_length evidence_data_path head_lr_mult ict_head_size ict_load img_h img_w
            indexer_batch_size indexer_log_interval iter_per_epoch mask_factor mask_prob mask_type
            num_channels num_classes output_bert_embeddings patch_dim query_in_block_prob
            relative_attention_max_distance relative_attention_num_buckets
            retriever_report_topk_accuracies retriever_score_scaling retriever_seq_length
            retro_attention_gate retro_bert_tokenizer_type retro_bert_vocab_file retro_block_size
            retro_chunk_length retro_cyclic_train_iters retro_encoder_attention_dropout
            retro_encoder_hidden_dropout retro_encoder_layers retro_neighbor_dirs
            retro_num_neighbors retro_num_retrieved_chunks retro_project_dir
            retro_split_preprocessing retro_verify_neighbor_count sample_rate short_seq_prob
            swin_backbone_type titles_data_path use_one_sent_docs vision_backbone_type
            vision_pretraining vision_pretraining_type vocab_extra_ids
""",
        "of reinforcement learning and distillation": """
            freeze_all_layers grpo_clamp_eps_lower grpo_clamp_eps_upper grpo_entropy_term_weight
            grpo_filter_groups_with_same_reward grpo_group_size grpo_iterations grpo_kl_beta
            grpo_prompts_per_step grpo_samples_per_iteration langrl_env_config
            langrl_external_server langrl_inference_server_conversation_template
            langrl_inference_server_type logits_load_decode_threads logits_load_dir
            logits_load_ignore_errors logits_load_kd_loss_alpha logits_load_msc_prefetch_depth
            logits_load_prefetch_factor logits_save_dir logits_save_dtype logits_save_top_k
            logits_save_top_p logits_save_top_p_min_k offset_sampling_seed_by_dp_rank
            perform_rl_step refit_method rl_consumption_granularity rl_default_temperature
            rl_default_top_k rl_default_top_p rl_durable_rollout_bank rl_generation_lag
            rl_importance_sampling_truncation_coef rl_inference_expert_model_parallel_size
            rl_inference_expert_tensor_model_parallel_size rl_inference_logprobs_is_correction
            rl_inference_model_unified_memory_level rl_inference_parsers
            rl_inference_pipeline_model_parallel_size rl_inference_tensor_model_parallel_size
            rl_kv_cache_management_mode rl_max_inflight_requests
            rl_offload_inference_model_weights_when_idle rl_offload_kv_cache_during_training
            rl_offload_optimizer_during_inference rl_parallel_generation_tasks rl_partial_rollouts
            rl_persist_cuda_graphs rl_profile rl_profile_dir rl_prompts_per_eval
            rl_remove_kv_cache_during_training rl_reset_cuda_graphs rl_rollout_bank_dir
            rl_rollout_bank_max_bytes rl_sequence_packing_algo
            rl_sequence_packing_max_sequences_per_bin rl_skip_bos_token rl_submission_granularity
            rl_training_cuda_graphs rl_use_sequence_packing rl_verify_model_weights_swap
""",
        "of inference servers": """
            decode_only_cuda_graphs disable_chunked_prefill enable_chunked_prefill
            inference_batch_times_seqlen_threshold inference_coordinator_port
            inference_cuda_graph_all_prefills inference_cuda_graph_max_tokens
            inference_disable_ep_consensus inference_dynamic_batching
            inference_dynamic_batching_async_sched_mode inference_dynamic_batching_block_size
            inference_dynamic_batching_buffer_guaranteed_fraction
            inference_dynamic_batching_buffer_overflow_factor
            inference_dynamic_batching_buffer_size_gb inference_dynamic_batching_chunk_size
            inference_dynamic_batching_cuda_graph_max_tokens
            inference_dynamic_batching_cuda_graph_mixed_prefill_count
            inference_dynamic_batching_cuda_graph_sizing_distribution
            inference_dynamic_batching_enable_prefix_caching
            inference_dynamic_batching_logprobs_mode inference_dynamic_batching_mamba_memory_ratio
            inference_dynamic_batching_max_requests inference_dynamic_batching_max_requests_override
            inference_dynamic_batching_max_tokens inference_dynamic_batching_max_tokens_override
            inference_dynamic_batching_num_cuda_graphs
            inference_dynamic_batching_paused_buffer_size_gb
            inference_dynamic_batching_prefix_caching_coordinator_policy
            inference_dynamic_batching_prefix_caching_eviction_policy
            inference_dynamic_batching_prefix_caching_mamba_gb
            inference_dynamic_batching_prefix_caching_routing_alpha
            inference_dynamic_batching_sampling_backend
            inference_dynamic_batching_track_generated_token_events
            inference_dynamic_batching_track_paused_request_events
            inference_dynamic_batching_unified_memory_level inference_logging_step_interval
            inference_max_batch_size inference_max_requests inference_max_seq_length
            inference_shards inference_text_gen_server_logging
            inference_use_synchronous_zmq_collectives inference_wandb_logging
            mamba_inference_conv_states_dtype mamba_inference_ssm_states_dtype max_tokens_to_oom
            use_legacy_static_engine
""",
        "of tokens and data": """
            allow_ambiguous_pad_tokens blendable_index_path chat_template consumed_samples
            consumed_train_bins consumed_train_samples consumed_valid_samples
            create_attention_mask_in_dataloader data_args_path data_cache_path data_impl data_path
            data_sharding dataloader_defer_npy_index_mmap dataloader_fast_cache_load
            dataloader_seq_length dataloader_type fim_data fim_eod_token fim_fragment_rate
            fim_middle_token fim_no_prefix fim_pad_token fim_prefix_token fim_rate fim_split_sample
            fim_spm_rate fim_suffix_token legacy_tokenizer merge_file metadata_path
            mid_level_dataset_surplus mmap_bin_files mock_data multiple_validation_sets
            null_tokenizer_eod_id null_tokenizer_pad_id num_dataset_builder_threads num_workers
            object_storage_cache_path pad_vocab_size per_dataset_sequences_path
            per_split_data_args_path renormalize_blend_weights s3_cache_path save_tokenizer_assets
            seq_length sft sft_tokenizer_prompt_format skipped_train_samples special_tokens split
            test_data_path tiktoken_num_special_tokens tiktoken_pattern tiktoken_special_tokens
            tokenizer_hf_include_special_tokens tokenizer_hf_no_include_special_tokens
            tokenizer_hf_no_use_fast tokenizer_hf_use_fast tokenizer_metadata tokenizer_model
            tokenizer_sentencepiece_ignore_extra_whitespaces tokenizer_sentencepiece_legacy
            tokenizer_special_tokens tokenizer_type train_data_path train_samples trust_remote_code
            use_gigatoken use_tokenizer_model_from_checkpoint_args valid_data_path
            validation_set_names vocab_file
""",
        "of checkpoints": """
            async_ckpt_cpu_priority async_ckpt_io_priority async_ckpt_use_cpu_shm async_save
            async_strategy auto_detect_ckpt_format ckpt_assume_constant_structure
            ckpt_convert_format ckpt_convert_save ckpt_convert_update_legacy_dist_opt_format
            ckpt_drop_redundant_extra_state ckpt_format ckpt_fully_parallel_load
            ckpt_fully_parallel_load_exchange_algo ckpt_fully_parallel_load_per_rank_objects
            ckpt_fully_parallel_load_process_group ckpt_fully_parallel_save
            ckpt_fully_parallel_save_deprecated ckpt_fully_parallel_save_process_group
            ckpt_load_validate_sharding_integrity ckpt_pg_tensors_cache_create
            ckpt_pg_tensors_cache_path ckpt_step curr_iteration dist_ckpt_format_deprecated
            dist_ckpt_optim_fully_reshardable dist_ckpt_save_pre_mcore_014 dist_ckpt_strictness
            dist_ckpt_workers distrib_optim_fully_reshardable_mem_efficient
            exit_on_missing_checkpoint export_te_mcore_model finetune iteration load
            load_main_params_from_ckpt load_model_opt_format moe_upcycling_granularity
            moe_use_upcycling no_load_optim no_load_rng no_save_optim no_save_rng
            non_persistent_ckpt_type non_persistent_global_ckpt_dir non_persistent_local_ckpt_algo
            non_persistent_local_ckpt_dir non_persistent_save_interval override_ckpt_iteration
            pretrained_checkpoint replication replication_factor replication_jump save
            save_activations_interval save_dgrads_interval save_interval save_params_interval
            save_retain_interval save_wgrads_interval sharp_enabled_group stream_ckpt_dequant
            strict_fsdp_dtensor_load use_checkpoint_args use_checkpoint_opt_param_scheduler
            use_dist_ckpt use_dist_ckpt_deprecated use_mp_args_from_checkpoint_args
            use_persistent_ckpt_worker use_sharp verify_integrity
""",
        "of the optimizer and its schedule": """
            DDP_impl _is_global_batch_size_explicitly_specified accumulate_allreduce_grads_in_fp32
            adam_beta1 adam_beta2 adam_eps align_grad_reduce align_param_gather
            apply_wd_to_qk_layernorm batch_size check_for_large_grads check_for_nan_in_loss_and_grad
            clip_grad data_parallel_sharding_strategy ddp_average_in_collective ddp_bucket_size
            ddp_num_buckets ddp_pad_buckets_for_high_nccl_busbw
            ddp_param_name_patterns_for_fp32_local_accumulation
            ddp_reduce_scatter_with_fp32_accumulation decoupled_lr decoupled_min_lr
            decrease_batch_size_if_needed delay_grad_reduce delay_param_gather
            dump_param_to_param_group_map enable_full_sharding_in_hsdp enable_gloo_process_groups
            end_weight_decay eval_global_batch_size eval_micro_batch_size exp_avg_dtype
            exp_avg_sq_dtype fsdp_db_use_persist_buf_on_alloc_fail fsdp_double_buffer
            fsdp_manual_registration global_batch_size grad_reduce_in_bf16
            gradient_reduce_div_fusion gtp_expert_remat_nccl_ub gtp_remat_nccl_ub
            gtp_remat_opt_in_modules gtp_remat_reduce_scatter_with_fp32_accumulation hysteresis
            initial_loss_scale lion_beta1 lion_beta2 loss_scale loss_scale_window lr lr_decay_iters
            lr_decay_samples lr_decay_style lr_warmup_fraction lr_warmup_init lr_warmup_iters
            lr_warmup_samples lr_wsd_decay_iters lr_wsd_decay_samples lr_wsd_decay_style
            main_grads_dtype main_params_dtype megatron_fsdp_enable_fine_grained_param_gather
            megatron_fsdp_grad_comm_dtype megatron_fsdp_main_grads_dtype
            megatron_fsdp_main_params_dtype megatron_fsdp_max_pool_double_buffer
            megatron_fsdp_version micro_batch_size min_loss_scale min_lr muon_coefficient_type
            muon_extra_scale_factor muon_fp32_matmul_prec muon_momentum muon_nesterov
            muon_num_ns_steps muon_scalar_optimizer muon_scale_mode muon_split_qkv muon_tp_mode
            muon_use_nesterov muon_use_syrk nccl_communicator_config_path nccl_ub
            no_weight_decay_cond_type num_distributed_optimizer_instances optimizer
            optimizer_cpu_offload optimizer_cuda_graph optimizer_offload_fraction
            outer_dp_sharding_strategy overlap_cpu_optimizer_d2h_h2d overlap_grad_reduce
            overlap_param_gather overlap_param_gather_with_optimizer_step
            override_opt_param_scheduler phase_transition_iterations pin_cpu_grads pin_cpu_params
            rampup_batch_size reuse_grad_buf_for_mxfp8_param_ag sgd_momentum start_weight_decay
            step_batch_size_schedule torch_fsdp2_reshard_after_forward train_iters
            use_contiguous_buffers_in_local_ddp use_custom_fsdp use_distributed_optimizer
            use_gloo_process_groups use_layer_wise_distributed_optimizer use_layer_wise_param_layout
            use_megatron_fsdp use_precision_aware_optimizer use_torch_fsdp2
            use_torch_optimizer_for_cpu_offload warmup weight_decay weight_decay_incr_style
""",
        "of logs and profiles": """
            app_tag_run_name app_tag_run_version check_weight_hash_across_dp_replicas_interval
            disable_straggler_on_startup enable_one_logger flight_recorder_dump_on_timeout
            flight_recorder_dump_path flight_recorder_extra_dump_on_exec
            flight_recorder_include_only_active flight_recorder_include_stack_trace
            flight_recorder_trace_buffer_size gpu_sniff_test_interval log_batch_size_to_tensorboard
            log_device_memory_used log_energy log_interval log_learning_rate_to_tensorboard
            log_loss_scale_to_tensorboard log_memory_interval log_memory_to_tensorboard
            log_num_zeros_in_grad log_params_norm log_progress log_straggler log_throughput
            log_timers_to_tensorboard log_validation_ppl_to_tensorboard
            log_world_size_to_tensorboard logging_level memory_snapshot_path
            moe_routing_trace_capture_hidden_states moe_routing_trace_capture_logits
            moe_routing_trace_dump_weights moe_routing_trace_max_training_iters
            moe_routing_trace_path nvtx_ranges one_logger_async one_logger_project
            one_logger_run_name otel_enabled otel_service_name otel_span_groups profile
            profile_ranks profile_step_end profile_step_start pytorch_profiler_collect_callstack
            pytorch_profiler_collect_chakra pytorch_profiler_collect_shapes record_memory_history
            record_shapes run_workload_inspector_server save_tokens_per_expert_interval
            straggler_ctrlr_port straggler_minmax_count tensorboard_dir tensorboard_log_interval
            tensorboard_queue_size timing_log_level timing_log_option use_pytorch_profiler
            wandb_entity wandb_exp_name wandb_project wandb_save_dir
""",
        "of the run and its processes": """
            adlr_autoresume adlr_autoresume_interval calc_ft_timeouts check_for_spiky_loss
            create_all_gather_group data_parallel_random_init data_parallel_size
            deprecated_use_mcore_models disable_msc_deprecated disable_symmetric_registration
            distributed_backend distributed_timeout_minutes distributed_timeout_seconds_after_init
            do_test do_train do_valid empty_unused_memory_level enable_experimental
            enable_ft_package enable_msc error_injection_rate error_injection_type eval_interval
            eval_iters exit_duration_in_mins exit_interval exit_signal exit_signal_handler
            exit_signal_handler_for_dataloader exit_signal_handler_for_training fake_process_group
            fault_injector_delay_start_iteration fault_injector_fault_delay
            fault_injector_fault_probabilities fault_injector_fault_types
            fault_injector_mtti_seconds fault_injector_num_ranks fault_injector_offset_seconds
            fault_injector_ranks fault_injector_seed ft_num_warmup_iters full_validation
            high_priority_stream_groups inprocess_active_world_size inprocess_barrier_timeout
            inprocess_completion_timeout inprocess_empty_cuda_cache inprocess_granularity
            inprocess_hard_timeout inprocess_heartbeat_interval inprocess_heartbeat_timeout
            inprocess_last_call_wait inprocess_max_iterations inprocess_monitor_process_interval
            inprocess_monitor_thread_interval inprocess_progress_watchdog_interval inprocess_restart
            inprocess_soft_timeout inprocess_termination_grace_time iterations_to_skip lazy_mpu_init
            local_rank manual_gc manual_gc_eval manual_gc_interval model_type
            num_floating_point_operations_so_far rank rerun_mode result_rejected_tracker_filename
            scatter_gather_tensors_in_pipeline seed skip_train start_eval_at_iter
            suggested_communication_unit_size to_test train_sync_interval use_mcore_models
            use_tp_pp_dp_mapping world_size yaml_cfg
""",
        "of the classes of Megatron-Bridge and NeMo 2": """
            generation_config forward_step_fn data_step_fn should_pad_vocab hf_model_id tokenizer
            bias_dropout_add_fusion _pg_collection
""",
    },
)
