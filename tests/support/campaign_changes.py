"""Random changes of one key of a config.json, or of one field of Megatron's args."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import odd_configs

if TYPE_CHECKING:
    from random import Random

Change = tuple[str, Any]  # the key, or keys with dots between, and its new value

# Of a config, what says nothing of the model itself.
OF_FILES = frozenset(
    {
        *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label"),
        *("is_encoder_decoder", "label2id", "output_attentions", "output_hidden_states"),
        *("problem_type", "return_dict", "transformers_version", "torch_dtype"),
    }
)
# What rarely means anything to a forward pass: a few are enough.
DULL = ("token_id", "initializer", "use_cache", "output_", "summary_", "pdrop", "dropout", "_aux_")
ACTIVATIONS = ("silu", "gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu2")
WORDS: dict[str, tuple[str, ...]] = {
    "model_type": (
        *("llama", "mistral", "qwen2", "qwen3", "granite", "cohere", "gemma", "gemma2", "olmo"),
        *("olmo2", "phi3", "stablelm", "starcoder2", "smollm3", "mixtral", "qwen3_moe", "olmoe"),
        *("minicpm", "helium", "exaone4", "glm", "glm4", "seed_oss", "arcee"),
    ),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "scoring_func": ("softmax", "sigmoid"),
    "rope_type": ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"),
    "layer_types": ("full_attention", "sliding_attention", "chunked_attention"),
}
# Keys that some class reads, whether or not the model's own does.
INTERESTING: dict[str, tuple[Any, ...]] = {
    "is_causal": (False, True),
    "use_bidirectional_attention": (True, False),
    "attention_multiplier": (0.5, 0.1),
    "embedding_multiplier": (2.0,),
    "residual_multiplier": (0.5,),
    "logits_scaling": (4.0,),
    "logit_scale": (0.25,),
    "scale_depth": (1.4,),
    "scale_emb": (12,),
    "sliding_window": (8, None, 4096),
    "use_sliding_window": (True, False),
    "max_window_layers": (0, 1, 28),
    "attention_chunk_size": (8,),
    "no_rope_layers": ([0, 1], [1, 0]),
    "no_rope_layer_interval": (2,),
    "partial_rotary_factor": (0.5, 0.25),
    "rotary_pct": (0.5,),
    "rope_theta": (5000.0, 1e6),
    "rope_local_base_freq": (5000.0,),
    "rope_scaling": (
        {"type": "linear", "factor": 2.0},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"rope_type": "dynamic", "factor": 4.0},
        None,
    ),
    "rope_parameters": (
        *(
            shape["rope_parameters"]
            for shape in (
                *(odd_configs.LINEAR, odd_configs.LLAMA3_SHORT, odd_configs.YARN),
                *(odd_configs.DYNAMIC, odd_configs.HALF, odd_configs.rope()),
                odd_configs.rope(partial_rotary_factor=0.5),
                odd_configs.rope(
                    "yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=2.0
                ),
                odd_configs.rope(
                    *("yarn",),
                    factor=4.0,
                    original_max_position_embeddings=16,
                    mscale=0.7,
                    mscale_all_dim=1.2,
                    beta_fast=16,
                    beta_slow=2,
                ),
                odd_configs.rope(
                    "yarn", factor=4.0, original_max_position_embeddings=16, truncate=False
                ),
            )
        ),
    ),
    "attn_logit_softcapping": (5.0, None),
    "final_logit_softcapping": (5.0, None),
    "query_pre_attn_scalar": (64, 3),
    "clip_qkv": (0.1,),
    "swiglu_limit": (0.5,),
    "swiglu_alpha": (1.0,),
    "head_dim": (8, 32),
    "hidden_activation": ACTIVATIONS,
    "hidden_act": ACTIVATIONS,
    "norm_topk_prob": (True, False),
    "routed_scaling_factor": (2.5,),
    "use_qk_norm": (True, False),
    "qk_layernorm": (True,),
    "attention_bias": (True, False),
    "mlp_bias": (True, False),
    "use_parallel_residual": (True, False),
    "scale_attn_weights": (False,),
    "scale_attn_by_inverse_layer_idx": (True,),
    "reorder_and_upcast_attn": (True,),
    "layer_types": (
        ["full_attention", "sliding_attention"],
        ["sliding_attention", "full_attention"],
    ),
    "attention_dropout": (0.3,),
    "ckptdiff_knows_nothing_of_this": (3,),
}
NUMBERS_OF_NONE = (1, 2, 8, 0.5, True, False)


def of_config(config: dict[str, Any], random: Random) -> Change:
    """Return one key of a config, which may be a new one, and another value of it."""
    keys = sorted(
        key
        for key in config.keys() - OF_FILES
        if random.random() < 0.15 or not any(part in key for part in DULL)
    )
    for _ in range(100):
        if random.random() < 0.45:
            key = random.choice(sorted(INTERESTING))
            value = random.choice(INTERESTING[key])
        else:
            key = random.choice(keys)
            key, value = _within(key, config[key], random)
        if value != _at(config, key) or type(value) is not type(_at(config, key)):
            return key, value
    raise AssertionError("every value is the old one")


def changed(config: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return a config with a change made."""
    head, dot, rest = change[0].partition(".")
    if not dot:
        return {**config, head: change[1]}
    return {**config, head: changed(config.get(head) or {}, (rest, change[1]))}


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _within(key: str, value: Any, random: Random) -> Change:
    """Return a key, or one below it, and another value."""
    if isinstance(value, dict) and value:
        inner = random.choice(sorted(value))
        name, new = _within(inner, value[inner], random)
        return f"{key}.{name}", new
    return key, another(key, value, random)


def another(key: str, value: Any, random: Random) -> Any:
    """Return a value of the same type where one can be found."""
    if key in WORDS and not isinstance(value, list):
        return random.choice(WORDS[key])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((value + 1, value - 1, 2 * value, value // 2, 1, 0))
    if isinstance(value, float):
        return random.choice((value / 2, 2 * value, value + 0.25, 0.0, 1.0))
    if isinstance(value, str):
        return random.choice(ACTIVATIONS) if value in ACTIVATIONS else f"{value}_other"
    if isinstance(value, list) and value:
        at = random.randrange(len(value))
        choices = [*value, *WORDS.get(key, ())]
        return [*value[:at], random.choice(choices), *value[at + 1 :]]
    if key.endswith("rope_scaling"):
        return random.choice(INTERESTING["rope_scaling"])
    return random.choice(NUMBERS_OF_NONE)


# Of args, what spreads a model over ranks, and what names files or a machine.
OF_RUNS = (
    *("_parallel", "_size_of", "pipeline", "path", "dir", "checkpoint_", "data_", "encoder_num"),
    *("save", "load", "log", "wandb", "tensorboard", "config_file", "consumed", "ckpt", "world"),
)
# Of how fast it runs and in what precision: a few are enough.
OF_SPEED = (
    *("recompute", "offload", "fusion", "comm", "overlap", "graph", "fp8", "fp4", "timers"),
    *("pg_collection", "func", "batch_", "dispatcher", "deallocate", "nvtx", "memory", "sharded"),
    *("bf16", "fp16", "init", "inference", "permute", "deepep", "async", "barrier", "compile"),
)
# Of other kinds of models.
OF_OTHERS = (
    "mamba",
    "linear_",
    "dsa_",
    "mtp_",
    "hybrid",
    "heterogeneous",
    "latent",
    "mhc",
    "num_nextn",
)
ARGS_WORDS: dict[str, tuple[Any, ...]] = {
    "normalization": ("LayerNorm", "RMSNorm"),
    "position_embedding_type": ("rope", "learned_absolute", "none", "yarn"),
    "rope_type": ("rope", "yarn"),
    "softmax_type": ("off-by-one", "learnable", "vanilla"),
    "moe_router_score_function": ("softmax", "sigmoid"),
    "moe_router_load_balancing_type": ("sinkhorn", "aux_loss", "none", "seq_aux_loss"),
    "moe_router_dtype": ("fp32", "fp64"),
    "moe_token_drop_policy": ("probs", "position"),
    "moe_layer_freq": (1, 2, [1, 0], [0, 1], [1, 1]),
    "window_size": ((7, 0), (3, 0), (63, 0), None),
    "window_attn_skip_freq": (2, [1, 0], [0, 1]),
    "no_rope_freq": (2, [1, 0], [0, 1]),
    "activation_func_clamp_value": (0.5, 7.0),
    "glu_linear_offset": (1.0, 0.5),
    "softmax_scale": (0.3, 1.0),
    "attention_backend": (),
    "transformer_impl": ("local", "transformer_engine"),
    "moe_expert_capacity_factor": (0.5, 1.0),
    "moe_router_num_groups": (2, 1),
    "moe_router_group_topk": (1, 2),
    "moe_router_topk_scaling_factor": (2.5, 0.5),
    "moe_router_topk_limited_devices": (1,),
    "moe_input_jitter_eps": (0.1,),
    "moe_z_loss_coeff": (0.001,),
    "rotary_base": (5000, 500000, 1000000),
    "rotary_percent": (0.5, 0.25, 1.0),
    "rotary_seq_len_interpolation_factor": (2, 4),
    "rope_scaling_factor": (2.0, 8.0, 32.0),
    "init_method_std": (0.5,),
    "hidden_dropout": (0.1, 0.3),
    "attention_dropout": (0.1, 0.3),
    "qk_clip_threshold": (10.0,),
}
# What Megatron's parser has and no field of the configuration.
OF_PARSER: dict[str, Any] = {
    "apply_layernorm_1p": False, "norm_epsilon": 1e-5, "swiglu": True, "squared_relu": False,
    "quick_geglu": False, "openai_gelu": False, "onnx_safe": None, "bias_gelu_fusion": True,
    "group_query_attention": True, "num_query_groups": 2, "num_experts": None,
    "position_embedding_type": "rope", "rotary_base": 10000, "rotary_percent": 1.0,
    "rotary_seq_len_interpolation_factor": None, "use_rope_scaling": False,
    "rope_scaling_factor": 8.0, "untie_embeddings_and_output_weights": True,
    "add_position_embedding": True, "use_rotary_position_embeddings": False,
    "reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False,
    "attention_softmax_in_fp32": False, "make_vocab_size_divisible_by": 128,
    "max_position_embeddings": 64, "seq_length": 64, "mtp_num_layers": None, "spec": None,
    "yaml_cfg": None, "use_legacy_models": False, "no_bias_swiglu_fusion": False,
    "decoder_seq_length": None, "cross_entropy_loss_fusion": False, "nonesuch": 1,
}  # fmt: skip


def of_args(args: dict[str, Any], fields: dict[str, Any], random: Random) -> Change:
    """Return one of the args, or a field of megatron-core's configuration, and another value.

    `fields` are the fields of the configuration and their defaults.
    """
    known = {**OF_PARSER, **fields, **args}
    names = sorted(
        name
        for name in {*fields, *OF_PARSER, *(args.keys() & known.keys())}
        if not any(part in name for part in OF_RUNS)
        and (random.random() < 0.1 or not any(part in name for part in (*OF_SPEED, *OF_OTHERS)))
        and (random.random() < 0.2 or args.get("num_experts") or not name.startswith("moe_"))
    )
    for _ in range(100):
        name = random.choice(sorted(ARGS_WORDS) if random.random() < 0.25 else names)
        value = known.get(name)
        choices = ARGS_WORDS.get(name)
        new = random.choice(choices) if choices else another(name, value, random)
        if new != value or type(new) is not type(value):
            return name, new
    raise AssertionError("every value is the old one")
