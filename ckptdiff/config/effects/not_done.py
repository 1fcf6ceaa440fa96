"""Args that change what a model computes, and that are not computed here.

To compute one, move its name into `computed`. Beside what it does stand the values at which it does
nothing, if there are others than None and False.

Source: megatron/core/transformer of 0.16.1 and 0.19.2, and what builds a model from Megatron-LM's
args (gpt_builders.py). Of newer releases, and of Megatron-Bridge's classes, some names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.effects.effect import Effect, changes, on, parts_of

if TYPE_CHECKING:
    from ckptdiff.config.effects.effect import Args

_EXPERTS = on("num_experts", "num_moe_experts")


def _has_gelu(args: Args) -> bool:
    """Return whether the activation is GELU, which Transformer Engine computes in its tanh form."""
    return not any(args.get(name) for name in ("swiglu", "squared_relu", "quick_geglu"))


def _may_be_legacy(args: Args) -> bool:
    """Return whether the form of GELU depends on the program: a core model reads other args."""
    fused = args.get("bias_gelu_fusion") and args.get("add_bias_linear")
    says = any(name in args for name in ("use_legacy_models", "activation_func"))
    return _has_gelu(args) and not fused and not says


def _has_mrope(args: Args) -> bool:
    return args.get("position_embedding_type") == "mrope"


def _has_no_pattern(args: Args) -> bool:
    """Return whether a hybrid's layers are dealt out by ratios."""
    patterns = ("hybrid_override_pattern", "hybrid_layer_pattern")
    return bool(args.get("is_hybrid_model")) and not any(args.get(name) for name in patterns)


def _drops(args: Args) -> bool:
    """Return whether experts have a capacity; one below zero is none."""
    factor = args.get("moe_expert_capacity_factor")
    return _EXPERTS(args) and isinstance(factor, (int, float)) and factor >= 0


NOT_DONE: dict[str, Effect] = {
    # ── attention and layers ─────────────────────────────────────────────────────────────────────
    "qk_l2_norm": changes("queries and keys are normalised, without weights"),
    "mrope_section": changes("positions have several parts", read=_has_mrope),
    **parts_of(
        "experimental_attention_variant",
        "is of another kind of attention",
        """
        gdp_num_householder dsa_indexer_n_heads dsa_indexer_head_dim dsa_indexer_topk
        dsa_indexer_topk_freq dsa_indexer_skip_topk_offset dsa_indexer_rope_interleaved
        dsa_indexer_rotate_activation dsa_indexer_scoring_relu dsa_indexer_k_norm_epsilon
        dsa_indexer_k_norm_fp32
""",
    ),
    "apply_residual_connection_post_layernorm": changes(
        "layers add to what their norms put out, in legacy models and in old releases", sure=False
    ),
    "openai_gelu": changes(
        "a legacy model computes the tanh form of GELU, and these args do not say if it is one",
        read=_may_be_legacy,
    ),
    "use_te_activation_func": changes("GELU is computed in its tanh form", read=_has_gelu),
    "use_transformer_engine_op_fuser": changes("GELU is computed in its tanh form", read=_has_gelu),
    # ── experts ──────────────────────────────────────────────────────────────────────────────────
    "moe_router_force_load_balancing": changes(
        "experts are chosen at random, whatever the router says", read=_EXPERTS
    ),
    "moe_router_force_biased": changes(
        "random numbers are added to what the router says", read=_EXPERTS
    ),
    "moe_input_jitter_eps": changes(
        "the router's input is multiplied by random numbers, in evaluation too", 0, read=_EXPERTS
    ),
    "moe_expert_capacity_factor": changes(
        "experts drop tokens above their capacity, in evaluation too", read=_drops, sure=False
    ),
    "moe_token_drop_policy": changes("chooses the tokens that experts drop", "probs", read=_drops),
    "moe_expert_rank_capacity_factor": changes(
        "ranks drop tokens above their capacity", read=_EXPERTS, sure=False
    ),
    "moe_apply_probs_on_input": changes("experts are weighted before they compute", read=_EXPERTS),
    # ── muP ──────────────────────────────────────────────────────────────────────────────────────
    "use_mup": changes("embeddings, attention and logits are scaled by muP"),
    **parts_of(
        "use_mup",
        "is a factor of muP",
        """
        mup_base_hidden_size mup_width_mult mup_embedding_mult mup_output_mult mup_base_head_dim
        mup_attn_scale_power
""",
    ),
    # ── models of other layers ───────────────────────────────────────────────────────────────────
    "spec": changes(
        "layers are built by a function that is not known",
        *("local", "megatron.core.models.mamba.mamba_layer_specs", "mamba_stack_spec"),
        *("megatron.core.models.hybrid.hybrid_layer_specs", "hybrid_stack_spec"),
        sure=False,
    ),
    "heterogeneous_block_specs": changes("layers are built one by one"),
    "heterogeneous_layers_config_path": changes("layers are built one by one"),
    "heterogeneous_layers_config_encoded_json": changes("layers are built one by one"),
    "hybrid_attention_ratio": changes("layers are dealt out by it", 0, read=_has_no_pattern),
    "hybrid_mlp_ratio": changes("layers are dealt out by it", 0, read=_has_no_pattern),
    "enable_mhc_connections": changes("the residual stream has several lanes"),
    **parts_of(
        "enable_mhc_connections",
        "is of the lanes of the residual stream",
        "mhc_init_gating_factor mhc_num_residual_streams mhc_sinkhorn_iterations",
    ),
    "retro_add_retriever": changes("layers read what was retrieved"),
}
