"""Read config.json of families with experts; the names of functions are those of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.hf_config.base import expert_count, llama, rope_of, size, with_experts
from ckptdiff.forward.model import Latent, Model, Routing, yarn_scale

if TYPE_CHECKING:
    from ckptdiff.forward.hf_config.base import Config

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


def qwen_moe(config: Config, chosen: int) -> Model:
    """Return a model with experts in each `decoder_sparse_step`-th layer but `mlp_only_layers`.

    `chosen` is the default of `num_experts_per_tok`.
    """
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok", chosen),
        normalized=bool(config.get("norm_topk_prob", False)),
    )
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    return with_experts(llama(config), routing, lambda n: n not in dense and (n + 1) % step == 0)


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


def deepseek(config: Config) -> Model:
    if config.get("scoring_func", "sigmoid") != "sigmoid":
        raise UnsupportedLayout(f"config.json: scoring_func is {config['scoring_func']!r}")
    latent = Latent(
        query_rank=config.get("q_lora_rank"),
        rank=size(config, "kv_lora_rank"),
        unrotated=size(config, "qk_nope_head_dim"),
        rotated=size(config, "qk_rope_head_dim"),
        value=size(config, "v_head_dim"),
        epsilon=_LATENT_EPSILON,
    )
    routing = Routing(
        experts=expert_count(config),
        chosen=size(config, "num_experts_per_tok"),
        score="sigmoid",
        normalized=bool(config.get("norm_topk_prob", True)),
        scaling=float(config.get("routed_scaling_factor", 2.5)),
        groups=size(config, "n_group", 8),
        chosen_groups=size(config, "topk_group", 4),
        wide_logits=True,
        wide_weights=True,
    )
    model = llama({**config, "head_dim": latent.rotated})
    rope = replace(
        rope_of(config, latent.rotated),
        interleaved=bool(config.get("rope_interleave", True)),
        regroups=True,
    )
    notes: tuple[str, ...] = ()
    if model.layernorm_epsilon != _LATENT_EPSILON:
        notes = (
            f"transformers normalises what attention is expanded from with {_LATENT_EPSILON:g}, "
            "not with rms_norm_eps; Megatron has one epsilon",
        )
    scale = (latent.unrotated + latent.rotated) ** -0.5
    if rope.kind != "default" and (all_dim := rope.scaling.get("mscale_all_dim")):
        scale *= yarn_scale(rope.scaling["factor"], all_dim) ** 2
    model = replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
        notes=notes,
    )
    dense = config.get("first_k_dense_replace", 3)
    return with_experts(model, routing, lambda n: n >= dense)
