"""Mixture of experts: number, size, layers, and how the router chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    by_family,
    default,
    first,
    from_tensors,
    null_means,
    number,
    only,
    sets,
    sets_in,
    sets_nothing,
    stated,
    switch,
)
from ckptdiff.config.fields.shape import SHAPES, expert_count, expert_names, layer_pattern

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Reader, Setter, Settings

# Model types whose classes hard-code sigmoid scores and a bias that is added for the choice.
# A tuple: whatever a hostile config.json puts there can be looked up in it.
SIGMOID = ("deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite", "nemotron_h", "minimax_m2")
ROUTED_SCALING = {"deepseek_v3": 2.5, "glm4_moe_lite": 1.8}  # if config.json has none
# Families whose classes always normalise the chosen weights to a sum of one.
NORMALISED = frozenset({"minimax_m2", "mixtral", "gpt_oss", "qwen3_5_moe", "qwen3_vl_moe"})
GROUPED = frozenset({"deepseek", "glm4_moe", "nemotron_h"})  # choose groups of experts first
SPARSE = frozenset(
    {"qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe"}
)  # dense layers are listed
GATED = frozenset({"qwen2_moe", "qwen3_next", "qwen3_5_moe"})  # the shared expert has a gate


def has_experts(side: ConfigSide) -> bool:
    return expert_count(side) > 0


def _experts(side: ConfigSide) -> Stated | None:
    name = next((name for name in expert_names(side) if side.has(name)), None)
    count = expert_count(side)
    return Stated(count, name, side.get(name) if name else count, None if name else "no field")


def _pattern_args(pattern: Any, _: ConfigSide) -> Settings:
    return {"moe_layer_freq": 1 if all(pattern) else pattern}


def _pattern_entries(pattern: Any, side: ConfigSide) -> Settings:
    dense = [layer for layer, is_mixed in enumerate(pattern) if not is_mixed]
    if side.get("model_type") == "glm4_moe_lite":
        return {"mlp_layer_types": ["sparse" if is_mixed else "dense" for is_mixed in pattern]}
    if side.family in GROUPED:
        # A pattern that is not "dense, then experts" reads otherwise, and is noted for that.
        return {"first_k_dense_replace": pattern.index(1)}
    if side.family in SPARSE:
        return {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    return {}


def _score(side: ConfigSide) -> Stated | None:
    if side.kind == "megatron":
        return default(stated("moe_router_score_function"), "softmax", MEGATRON)(side)
    found: Stated | None = stated("scoring_func")(side)
    fixed = _scores_of_class(side)
    if found is not None and fixed in (None, found.value):
        return found
    if fixed is not None:
        return Stated(fixed, None, fixed, TRANSFORMERS)
    return by_family({}, "softmax")(side)


def _scores_of_class(side: ConfigSide) -> str | None:
    """Return the scores that a class hard-codes, whatever scoring_func says; None: it may say."""
    if side.get("model_type") in SIGMOID:
        return "sigmoid"
    return "softmax" if side.get("model_type") == "deepseek_v2" else None


def score_function(side: ConfigSide) -> Any:
    found = _score(side)
    return None if found is None else found.value


def _weights_hf(side: ConfigSide) -> Stated | None:
    """Read whether the weights of the chosen experts sum to one."""
    if side.get("model_type") == "deepseek_v2":  # whose class does not read norm_topk_prob
        return Stated(False, None, False, "every deepseek_v2 model")
    found: Stated | None = switch("norm_topk_prob")(side)
    if found is not None:
        return found
    if side.family in NORMALISED:
        return Stated(True, None, True, f"every {side.family} model")
    if side.get("model_type") in SIGMOID or side.family == "qwen3_next":
        return Stated(True, None, True, TRANSFORMERS)
    return None if side.family is None else Stated(False, None, False, TRANSFORMERS)


def _weights_megatron(side: ConfigSide) -> Stated | None:
    name = "moe_router_pre_softmax"
    if score_function(side) == "sigmoid":
        return Stated(True, None, True, "sigmoid scores are always normalised in Megatron")
    if side.has(name):
        return Stated(not side.get(name), name, side.get(name))
    return Stated(True, None, True, MEGATRON)


def _weights_args(value: Any, side: ConfigSide) -> Settings | None:
    if score_function(side) == "sigmoid":
        return {} if value else None
    return {"moe_router_pre_softmax": not value}


def _bias_hf(side: ConfigSide) -> Stated | None:
    method = side.get("topk_method")
    if method is not None:
        return Stated(method == "noaux_tc", "topk_method", method)
    if side.family is None:
        return None
    on = side.get("model_type") in SIGMOID
    return Stated(on, None, on, TRANSFORMERS)


def _bias_entries(value: Any, side: ConfigSide) -> Settings:
    if side.family != "deepseek":
        return {}
    greedy = "group_limited_greedy" if _grouped(side) else "greedy"
    return {"topk_method": "noaux_tc" if value else greedy}


def _shared_hf(side: ConfigSide) -> Stated | None:
    names = "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"
    found: Stated | None = number(*names)(side)
    if found is not None:
        return found
    count = side.get("n_shared_experts")
    if count is None:
        return Stated(0, None, 0, "no shared expert in config.json")
    return Stated(count * side.fields["moe_intermediate_size"], "n_shared_experts", count)


def shared_width(side: ConfigSide) -> Any:
    """Return the FFN size of the shared expert; 0 without one."""
    read = _shared_hf if side.kind == "hf" else _optional("moe_shared_expert_intermediate_size", 0)
    found = read(side)
    return 0 if found is None else found.value


def _shared_entries(value: Any, side: ConfigSide) -> Settings | None:
    if side.family in GATED:
        return {"shared_expert_intermediate_size": value}
    if side.family == "nemotron_h":
        return {"moe_shared_expert_intermediate_size": value}
    if side.family not in GROUPED:
        return None if value else {}
    size = side.get("moe_ffn_hidden_size") or side.get("ffn_hidden_size")
    return None if value % size else {"n_shared_experts": value // size}


def _optional(name: str, other: Any) -> Reader:
    """Read a number in args that is null if the feature is off."""
    return default(null_means((name,), number(name), other), other, MEGATRON)


def _optional_hf(name: str, other: Any) -> Reader:
    return default(null_means((name,), number(name), other), other, TRANSFORMERS)


def _routed_scaling_hf(side: ConfigSide) -> Stated | None:
    other = ROUTED_SCALING.get(str(side.get("model_type")), 1.0)
    return _optional_hf("routed_scaling_factor", other)(side)


def _all_rank(side: ConfigSide) -> bool:
    """Return whether the class reads no groups: DeepSeek-V2's does so by one method alone."""
    method = side.get("topk_method") or "greedy"
    return side.get("model_type") == "deepseek_v2" and method != "group_limited_greedy"


def _groups_hf(side: ConfigSide) -> Stated | None:
    if _all_rank(side):
        return Stated(1, None, 1, "topk_method is not group_limited_greedy")
    return _optional_hf("n_group", 1)(side)


def _grouped(side: ConfigSide) -> bool:
    if side.kind == "hf" and _all_rank(side):
        return False
    names = ("n_group", "topk_group") if side.kind == "hf" else (
        "moe_router_num_groups", "moe_router_group_topk",
    )  # fmt: skip
    return has_experts(side) and type(n := side.get(names[0])) is int and n > 1


def _scores_hf(side: ConfigSide) -> Stated | None:
    """Read how many of its highest scores rank a group: two if a bias is added to scores."""
    bias = _bias_hf(side)
    if bias is None:
        return None
    count = 2 if bias.value else 1
    return Stated(count, None, count, "transformers hard-codes it")


def _scores_megatron(side: ConfigSide) -> Stated | None:
    chosen, groups = side.get("moe_router_topk"), side.get("moe_router_group_topk")
    count = chosen // groups
    return Stated(count, None, count, "moe_router_topk / moe_router_group_topk")


def _unless_one(name: str) -> Setter:
    """Set an arg that is null if the feature is off."""
    return sets(name, lambda value: None if value == 1 else value)


def _groups_entries(value: Any, side: ConfigSide) -> Settings:
    if side.family not in GROUPED:
        return {}
    return {"n_group": value, **({"topk_group": 1} if value == 1 else {})}


ROUTING = "Other experts are chosen, so every layer of experts puts out something else."

_EXPERT_COUNT = sets_in(
    "num_experts",
    {
        **dict.fromkeys(("mixtral", "gpt_oss", "minimax_m2"), "num_local_experts"),
        **dict.fromkeys(GROUPED, "n_routed_experts"),
    },
)

EXPERTS: tuple[ConfigField, ...] = (
    ConfigField(
        "Experts",
        _experts,
        _experts,
        SHAPES,
        sets("num_experts", lambda count: count or None),
        lambda count, side: _EXPERT_COUNT(count, side) if count else {},
        off=0,
        moves=moves.EXPERTS,
    ),
    ConfigField(
        "Layers of experts",
        layer_pattern,
        layer_pattern,
        "A layer has experts on one side and a dense MLP on the other.",
        _pattern_args,
        _pattern_entries,
        applies=lambda side: has_experts(side) and side.family != "nemotron_h",
        moves=moves.EXPERTS,
    ),
    ConfigField(
        "Expert FFN size",
        number("moe_intermediate_size", "intermediate_size"),
        number("moe_ffn_hidden_size", "ffn_hidden_size"),
        SHAPES,
        sets("moe_ffn_hidden_size"),
        sets_in(
            "moe_intermediate_size",
            dict.fromkeys(("mixtral", "gpt_oss", "olmoe", "minimax_m2"), "intermediate_size"),
        ),
        applies=has_experts,
        moves=moves.MLP,
    ),
    ConfigField(
        "Shared expert FFN size",
        _shared_hf,
        _optional("moe_shared_expert_intermediate_size", 0),
        SHAPES,
        sets("moe_shared_expert_intermediate_size", lambda size: size or None),
        _shared_entries,
        applies=has_experts,
        moves=moves.SHARED,
    ),
    ConfigField(
        "Shared expert gate",
        by_family(dict.fromkeys(GATED, True), False),
        first(
            switch("moe_shared_expert_gate"),
            from_tensors(("shared_expert_gate.weight",), "gate of shared experts"),
        ),
        "The shared expert is weighted by a gate on one side only.",
        sets("moe_shared_expert_gate"),
        sets_nothing,
        applies=lambda side: has_experts(side) and shared_width(side) > 0,
        off=False,
        moves=moves.SHARED,
    ),
    ConfigField(
        "Experts per token",
        default(number("num_experts_per_tok", "num_experts_per_token"), 2, TRANSFORMERS, weak=True),
        default(number("moe_router_topk"), 2, MEGATRON),
        "Each token goes through another number of experts.",
        sets("moe_router_topk"),
        sets("num_experts_per_tok"),
        applies=has_experts,
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router scores",
        _score,
        _score,
        ROUTING,
        sets("moe_router_score_function"),
        only(frozenset({"deepseek"}), "scoring_func"),
        applies=has_experts,
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router weights sum to one",
        _weights_hf,
        _weights_megatron,
        "The chosen experts are weighted otherwise: softmax before or after the choice.",
        _weights_args,
        sets_in("norm_topk_prob", dict.fromkeys(NORMALISED, "")),
        applies=has_experts,
        cannot="Megatron always normalises sigmoid scores.",
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router scaling",
        _routed_scaling_hf,
        _optional("moe_router_topk_scaling_factor", 1.0),
        "The output of the routed experts is scaled by another factor.",
        _unless_one("moe_router_topk_scaling_factor"),
        only(GROUPED, "routed_scaling_factor"),
        applies=has_experts,
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router groups",
        _groups_hf,
        _optional("moe_router_num_groups", 1),
        ROUTING,
        _unless_one("moe_router_num_groups"),
        _groups_entries,
        applies=has_experts,
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router groups per token",
        _optional_hf("topk_group", 1),
        _optional("moe_router_group_topk", 1),
        ROUTING,
        sets("moe_router_group_topk"),
        only(GROUPED, "topk_group"),
        applies=_grouped,
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Experts that rank a group",
        _scores_hf,
        _scores_megatron,
        ROUTING,
        sets_nothing,
        sets_nothing,
        applies=_grouped,
        cannot="Neither side can be set to the other's rule.",
        moves=moves.ROUTING,
    ),
    ConfigField(
        "Router bias",
        _bias_hf,
        default(
            switch("moe_router_enable_expert_bias"),
            False,
            MEGATRON,
        ),
        ROUTING,
        sets("moe_router_enable_expert_bias"),
        _bias_entries,
        applies=has_experts,
        moves=moves.ROUTING,
    ),
)
