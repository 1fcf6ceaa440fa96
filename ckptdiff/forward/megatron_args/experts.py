"""Read from Megatron's args which layers have experts, and how they are chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.forward.megatron_args.base import size
from ckptdiff.forward.model import Routing

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args


def routing_of(args: Args) -> Routing | None:
    if not args.get("num_experts"):
        return None
    chosen, score = args.get("moe_router_topk") or 2, args.get("moe_router_score_function")
    is_sigmoid = score == "sigmoid"
    groups = args.get("moe_router_num_groups") or 1
    chosen_groups = args.get("moe_router_group_topk") or 1
    is_wide = args.get("moe_router_dtype") in ("fp32", "fp64")
    return Routing(
        experts=size(args, "num_experts"),
        chosen=chosen,
        score="sigmoid" if is_sigmoid else "softmax",
        normalized=is_sigmoid or not args.get("moe_router_pre_softmax"),
        scaling=float(args.get("moe_router_topk_scaling_factor") or 1.0),
        groups=groups if args.get("moe_router_group_topk") else 1,
        chosen_groups=chosen_groups,
        ranking=chosen // chosen_groups,
        # Megatron adds it to a sigmoid's scores alone.
        biased=is_sigmoid and args.get("moe_router_enable_expert_bias") is not False,
        wide_logits=is_wide,
        wide_weights=is_wide,
    )


def has_experts(args: Args, number: int) -> bool:
    freq = args.get("moe_layer_freq")
    if isinstance(freq, list):
        return bool(freq[number])
    return number % (freq or 1) == 0
