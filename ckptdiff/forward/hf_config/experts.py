"""Read config.json of families with experts; the names of functions are those of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.hf_config.base import expert_count, llama, rope_of, size, with_experts
from ckptdiff.forward.model import Fixed, Latent, Model, Routing, yarn_scale

if TYPE_CHECKING:
    from ckptdiff.forward.hf_config.base import Config

QUICK_GELU = 1.702  # the factor inside it
_GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
# Of the norms of latent vectors: DeepSeek's class does not use the config's epsilon for them.
_LATENT_EPSILON = 1e-6


def mixtral(config: Config) -> Model:
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok", 2),
        wide_weights=True,
    )
    model = llama(config, rope_theta=1e6, rms_norm_eps=1e-5)
    return with_experts(model, routing, lambda _: True)


def qwen_moe(config: Config, chosen: int, **defaults: Any) -> Model:
    """Return a model with experts in each `decoder_sparse_step`-th layer but `mlp_only_layers`.

    `chosen` is the default of `num_experts_per_tok`, `defaults` are those of Llama's fields.
    """
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok", chosen),
        normalized=bool(config.get("norm_topk_prob", False)),
    )
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    model = llama(config, **defaults)
    return with_experts(model, routing, lambda n: n not in dense and (n + 1) % step == 0)


def qwen2_moe(config: Config) -> Model:
    count, slides = size(config, "num_hidden_layers"), config.get("use_sliding_window")
    most = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if slides and n % 2 == 0 and n < most else "full_attention"
        for n in range(count)
    ]
    return qwen_moe({**config, "layer_types": kinds}, 4)


def qwen3_moe(config: Config) -> Model:
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return qwen_moe({**config, "sliding_window": window}, 8)


def olmoe(config: Config) -> Model:
    """Return an OLMoE: queries and keys are normalised over all heads at once."""
    plain = {**config, "decoder_sparse_step": 1, "mlp_only_layers": None}  # not read by the class
    model = qwen_moe(plain, 8, rms_norm_eps=1e-5)
    return replace(model, norms_all_heads=True, qkv_limit=config.get("clip_qkv"))


def gpt_oss(config: Config) -> Model:
    """Return a gpt-oss: sinks beside attention, and experts with biases and a clamped gate."""
    alpha = config.get("swiglu_alpha", QUICK_GELU)
    if alpha != QUICK_GELU:
        raise UnsupportedLayout(f"config.json: swiglu_alpha {alpha!r} is not yet computed")
    count = size(config, "num_hidden_layers")
    absent = {
        "layer_types": ["full_attention" if n % 2 else "sliding_attention" for n in range(count)],
        "sliding_window": 128,
        "rope_theta": 150000.0,
        "rope_parameters": config.get("rope_scaling") or _GPT_OSS_ROPE,
    }
    given = {name: value for name, value in config.items() if value is not None}
    if "sliding_window" in config:
        given["sliding_window"] = config["sliding_window"]
    config = {**absent, **given}
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok", 4),
        softmax_last=True,
    )
    model = replace(
        llama(config, rms_norm_eps=1e-5, head_dim=64),
        activation="quick_gelu",
        wide_norm=True,
        softmax_type="learnable",
        gate_limit=float(config.get("swiglu_limit", 7.0)),
        up_offset=1.0,
    )
    return with_experts(model, routing, lambda _: True)


def glm4_moe(config: Config) -> Model:
    """Return a GLM-4.5: DeepSeek's experts, and attention like Llama's."""
    config = {"partial_rotary_factor": 0.5, "n_group": 1, "topk_group": 1, **config}
    model = llama(config, rms_norm_eps=1e-5)
    model = replace(model, qk_norm=bool(config.get("use_qk_norm", False)))
    dense = config.get("first_k_dense_replace", 1)
    return with_experts(model, _deepseek_routing(config, scaling=1.0), lambda n: n >= dense)


def deepseek(config: Config) -> Model:
    """Return a DeepSeek-V3."""
    if config.get("scoring_func", "sigmoid") != "sigmoid":
        raise UnsupportedLayout(f"config.json: scoring_func is {config['scoring_func']!r}")
    dense = config.get("first_k_dense_replace", 3)
    routing = _deepseek_routing(config, scaling=2.5)
    return with_experts(_with_latent(config), routing, lambda n: n >= dense)


def glm4_moe_lite(config: Config) -> Model:
    """Return a GLM-4.7-Flash: a DeepSeek-V3 that lists which layers are dense."""
    config = {"rms_norm_eps": 1e-5, "q_lora_rank": 768, "n_group": 1, "topk_group": 1, **config}
    count = size(config, "num_hidden_layers")
    kinds = config.get("mlp_layer_types") or ["dense", *["sparse"] * (count - 1)]
    routing = _deepseek_routing(config, scaling=1.8)
    return with_experts(_with_latent(config), routing, lambda n: kinds[n] == "sparse")


def deepseek_v2(config: Config) -> Model:
    """Return a DeepSeek-V2: scores are a softmax, and a group's is its highest one."""
    method = config.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedLayout(f"config.json: topk_method is {method!r}")
    is_limited = method == "group_limited_greedy"
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok"),
        normalized=False,
        scaling=float(config.get("routed_scaling_factor", 1.0)),
        groups=size(config, "n_group") if is_limited else 1,
        chosen_groups=size(config, "topk_group") if is_limited else 1,
        ranking=1,
        wide_logits=True,
        wide_weights=True,
    )
    within = routing.experts // routing.groups * routing.chosen_groups
    if routing.chosen > within:
        raise UnsupportedLayout(
            f"config.json: num_experts_per_tok is {routing.chosen}, and the groups that are chosen "
            f"have {within} experts: this is not yet computed"
        )
    dense = config.get("first_k_dense_replace", 0)
    model = _with_latent({**config, "rope_interleave": True}, is_complex=True)
    return with_experts(model, routing, lambda n: n >= dense)


def _deepseek_routing(config: Config, scaling: float) -> Routing:
    """Return DeepSeek-V3's routing; `scaling` is the default of `routed_scaling_factor`."""
    return Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok"),
        score="sigmoid",
        normalized=bool(config.get("norm_topk_prob", True)),
        scaling=float(config.get("routed_scaling_factor", scaling)),
        groups=size(config, "n_group", 8),
        chosen_groups=size(config, "topk_group", 4),
        biased=True,
        wide_logits=True,
        wide_weights=True,
    )


def _with_latent(config: Config, *, is_complex: bool = False) -> Model:
    """Return a model of DeepSeek's attention, without experts; `is_complex` is its rotation."""
    latent = Latent(
        query_rank=config.get("q_lora_rank", 1536),
        rank=size(config, "kv_lora_rank"),
        unrotated=size(config, "qk_nope_head_dim"),
        rotated=size(config, "qk_rope_head_dim"),
        value=size(config, "v_head_dim"),
        epsilon=_LATENT_EPSILON,
    )
    model = llama({**config, "head_dim": latent.rotated})
    rope = replace(
        rope_of(config, latent.rotated),
        interleaved=bool(config.get("rope_interleave", True)),
        regroups=True,
        is_complex=is_complex,
    )
    fixed: tuple[Fixed, ...] = ()
    if model.layernorm_epsilon != _LATENT_EPSILON:
        note = (
            f"transformers normalises what attention is expanded from with {_LATENT_EPSILON:g}, "
            "not with rms_norm_eps; Megatron has one epsilon"
        )
        fixed = (Fixed(note, frozenset({"q_latent_norm", "kv_latent_norm"})),)
    scale = (latent.unrotated + latent.rotated) ** -0.5
    if rope.kind != "default" and (all_dim := rope.scaling.get("mscale_all_dim")):
        scale *= yarn_scale(rope.scaling["factor"], all_dim) ** 2
    return replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
        fixed=fixed,
    )
