"""Where programs round: the points by which roundings are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.model import Model

# COMMON is every place where all programs round; at the others only some do.
COMMON = "common"
NORM = "norm"  # the normalised input, before the product with the weight
SCORES = "scores"  # attention scores, before they are scaled
TABLE = "table"  # cosine and sine
TABLE_PRODUCT = "table_product"  # each product of a channel with cosine or sine
BIAS = "bias"  # a product, before its bias is added
PARTIAL = "partial"  # a rank's partial sum of a product, and sums of some ranks' partial sums
SINKS = "sinks"  # scores less the highest, where a sink is beside them
# In layers with experts:
ROUTER = "router"  # the router's logits
ROUTER_SCORES = "router_scores"  # what is made of them, before the last operation
ROUTING = "routing"  # the weights of the chosen experts
WEIGHTED_INPUT = "weighted_input"  # the input of an expert's last product, times its weight
WEIGHTED_OUTPUT = "weighted_output"  # an expert's output, times its weight
EXPERT_SUMS = "expert_sums"  # each sum of some experts' outputs


def points(arithmetic: Arithmetic, model: Model) -> frozenset[str]:
    """Return the points where a program rounds that computes a model."""
    rounds = {
        COMMON: True,
        NORM: arithmetic.rounds_before_norm_weight,
        SCORES: not arithmetic.scales_in_product,
        TABLE: not arithmetic.complex_rope,
        TABLE_PRODUCT: not arithmetic.complex_rope,
        BIAS: arithmetic.rounds_before_bias,
        PARTIAL: arithmetic.ranks > 1,
        SINKS: arithmetic.shifts_sinks and model.softmax_type != "vanilla",
    }
    if (routing := model.routing) is not None:
        narrow = not routing.wide_logits
        early = arithmetic.narrows_scores(routing)
        is_last = routing.score == "softmax" and routing.scaling == 1
        rounds |= {
            ROUTER: narrow,
            ROUTER_SCORES: narrow and early and not is_last,
            ROUTING: narrow and (early or not routing.wide_weights),
            WEIGHTED_INPUT: arithmetic.scales_expert_input,
            WEIGHTED_OUTPUT: not arithmetic.scales_expert_input,
            EXPERT_SUMS: True,
        }
    return frozenset(point for point, does in rounds.items() if does)
