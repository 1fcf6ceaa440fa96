"""Args of older releases in the words of newer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# What an arg says and how many of its values there are, where it has another name.
DEVICES = {
    "moe_router_group_topk": "moe_router_topk_limited_devices",
    "moe_router_num_groups": "expert_model_parallel_size",
}


def in_new_words(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return args with groups of experts, where they limit the devices that a token is sent to.

    A group is the experts of a rank, as TransformerConfig has it.
    """
    if not args.get(DEVICES["moe_router_group_topk"]) or args.get("moe_router_group_topk"):
        return args
    return {**args, **{new: args.get(old) for new, old in DEVICES.items()}}
