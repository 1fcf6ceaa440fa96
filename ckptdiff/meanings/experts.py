"""Mixture of experts: how many, how large, in which layers, and how the router chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.meanings.base import (
    MEGATRON,
    TRANSFORMERS,
    Meaning,
    Reading,
    Side,
    by_family,
    default,
    flag,
    no_flag,
    null_means,
    number,
    stated,
    switch,
    switch_flag,
)
from ckptdiff.meanings.shape import SHAPES, expert_names, experts, layer_pattern

if TYPE_CHECKING:
    from ckptdiff.meanings.base import Reader


def mixed(side: Side) -> bool:
    return experts(side) > 0


def _experts(side: Side) -> Reading | None:
    name = next((name for name in expert_names(side) if side.has(name)), None)
    count = experts(side)
    return Reading(count, name, side.get(name) if name else count, None if name else "no field")


def _pattern_fix(pattern: Any, _: Side) -> str:
    return "--moe-layer-freq " + ("1" if all(pattern) else str(pattern).replace(" ", ""))


def _score(side: Side) -> Reading | None:
    if side.kind == "megatron":
        return default(stated("moe_router_score_function"), "softmax", MEGATRON)(side)
    found: Reading | None = stated("scoring_func")(side)
    if found is not None:
        return found
    if side.get("model_type") in ("deepseek_v3", "kimi_k2"):
        return Reading("sigmoid", None, "sigmoid", TRANSFORMERS)
    return by_family({}, "softmax")(side)


def score_function(side: Side) -> Any:
    found = _score(side)
    return None if found is None else found.value


def _weights_hf(side: Side) -> Reading | None:
    """Read whether the weights of the chosen experts sum to one."""
    found: Reading | None = switch("norm_topk_prob")(side)
    if found is not None:
        return found
    if side.family == "mixtral":
        return Reading(True, None, True, "every mixtral model")
    if side.get("model_type") in ("deepseek_v3", "kimi_k2"):
        return Reading(True, None, True, TRANSFORMERS)
    return None if side.family is None else Reading(False, None, False, TRANSFORMERS)


def _weights_megatron(side: Side) -> Reading | None:
    name = "moe_router_pre_softmax"
    if score_function(side) == "sigmoid":
        return Reading(True, None, True, "sigmoid scores are always normalised in Megatron")
    if side.has(name):
        return Reading(not side.get(name), name, side.get(name))
    return Reading(True, None, True, MEGATRON)


def _weights_fix(value: Any, side: Side) -> str | None:
    if score_function(side) == "sigmoid":
        return None
    name = "--moe-router-pre-softmax"
    return f"leave out {name}" if value else name


def _bias_hf(side: Side) -> Reading | None:
    method = side.get("topk_method")
    if method is not None:
        return Reading(method == "noaux_tc", "topk_method", method)
    if side.family is None:
        return None
    on = side.get("model_type") in ("deepseek_v3", "kimi_k2")
    return Reading(on, None, on, TRANSFORMERS)


def _shared_hf(side: Side) -> Reading | None:
    found: Reading | None = number("shared_expert_intermediate_size")(side)
    if found is not None:
        return found
    count = side.get("n_shared_experts")
    if count is None:
        return Reading(0, None, 0, "no shared expert in config.json")
    return Reading(count * side.fields["moe_intermediate_size"], "n_shared_experts", count)


def _optional(name: str, other: Any) -> Reader:
    """Read a number of Megatron's that is null where the feature is off."""
    return default(null_means((name,), number(name), other), other, MEGATRON)


def _optional_hf(name: str, other: Any) -> Reader:
    return default(null_means((name,), number(name), other), other, TRANSFORMERS)


def _grouped(side: Side) -> bool:
    names = ("n_group", "topk_group") if side.kind == "hf" else (
        "moe_router_num_groups", "moe_router_group_topk",
    )  # fmt: skip
    return mixed(side) and type(n := side.get(names[0])) is int and n > 1


def _scores_hf(side: Side) -> Reading | None:
    """Read by how many of its best experts a group is chosen; two where a bias corrects scores."""
    bias = _bias_hf(side)
    if bias is None:
        return None
    count = 2 if bias.value else 1
    return Reading(count, None, count, "transformers hard-codes it")


def _scores_megatron(side: Side) -> Reading | None:
    chosen, groups = side.get("moe_router_topk"), side.get("moe_router_group_topk")
    count = chosen // groups
    return Reading(count, None, count, "moe_router_topk / moe_router_group_topk")


ROUTING = "Other experts are chosen, so every layer of experts puts out something else."

EXPERTS: tuple[Meaning, ...] = (
    Meaning("Experts", _experts, _experts, SHAPES, flag("--num-experts"), off=0),
    Meaning(
        "Layers of experts",
        layer_pattern,
        layer_pattern,
        "A layer has experts on one side and a dense MLP on the other.",
        _pattern_fix,
        applies=mixed,
    ),
    Meaning(
        "Expert FFN size",
        number("moe_intermediate_size", "intermediate_size"),
        number("moe_ffn_hidden_size", "ffn_hidden_size"),
        SHAPES,
        flag("--moe-ffn-hidden-size"),
        applies=mixed,
    ),
    Meaning(
        "Shared expert FFN size",
        _shared_hf,
        _optional("moe_shared_expert_intermediate_size", 0),
        SHAPES,
        flag("--moe-shared-expert-intermediate-size"),
        applies=mixed,
    ),
    Meaning(
        "Experts per token",
        default(number("num_experts_per_tok", "num_experts_per_token"), 2, TRANSFORMERS, weak=True),
        default(number("moe_router_topk"), 2, MEGATRON),
        "Each token goes through another number of experts.",
        flag("--moe-router-topk"),
        applies=mixed,
    ),
    Meaning(
        "Router scores",
        _score,
        _score,
        ROUTING,
        flag("--moe-router-score-function"),
        applies=mixed,
    ),
    Meaning(
        "Router weights sum to one",
        _weights_hf,
        _weights_megatron,
        "The chosen experts are weighted otherwise: softmax before or after the choice.",
        _weights_fix,
        applies=mixed,
        cannot="Megatron always normalises sigmoid scores.",
    ),
    Meaning(
        "Router scaling",
        _optional_hf("routed_scaling_factor", 1.0),
        _optional("moe_router_topk_scaling_factor", 1.0),
        "The output of the routed experts is scaled by another factor.",
        flag("--moe-router-topk-scaling-factor"),
        applies=mixed,
    ),
    Meaning(
        "Router groups",
        _optional_hf("n_group", 1),
        _optional("moe_router_num_groups", 1),
        ROUTING,
        flag("--moe-router-num-groups"),
        applies=mixed,
    ),
    Meaning(
        "Router groups per token",
        _optional_hf("topk_group", 1),
        _optional("moe_router_group_topk", 1),
        ROUTING,
        flag("--moe-router-group-topk"),
        applies=_grouped,
    ),
    Meaning(
        "Experts that rank a group",
        _scores_hf,
        _scores_megatron,
        ROUTING,
        no_flag,
        applies=_grouped,
        cannot="Neither side can be set to the other's rule.",
    ),
    Meaning(
        "Router bias",
        _bias_hf,
        default(
            switch("moe_router_enable_expert_bias"),
            False,
            MEGATRON,
        ),
        ROUTING,
        switch_flag("--moe-router-enable-expert-bias"),
        applies=mixed,
    ),
)
