"""From a router's logits to the weights of the chosen experts.

Sources: the TopKRouter classes of transformers' mixtral, qwen2_moe, qwen3_moe, deepseek_v2 and
deepseek_v3;
megatron.core.transformer.moe.moe_utils.topk_routing_with_score_function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.arithmetic import at_least_float32
from ckptdiff.forward.points import ROUTER_SCORES, ROUTING

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.model import Routing

Reference = tuple["Tensor", "Tensor"]  # logits and weights of the reference

_TIE = 8  # epsilons of the dtype: scores no further apart are a tie


def route(
    logits: Tensor,
    bias: Tensor | None,
    routing: Routing,
    arithmetic: Arithmetic,
    reference: Reference | None = None,
) -> Tensor:
    """Return weights, (positions, experts): those of the chosen experts, and zeros.

    `logits` are (positions, experts). `bias`, (experts,), is added to scores for the choice only.
    With a `reference`, experts are chosen by its logits, and a tie as it was decided there. So two
    choices differ by their rules, and not by rounding.
    """
    scores = _scores(logits, routing, arithmetic)
    ranked = scores if bias is None else scores + bias.to(scores.dtype)
    chosen = _top_k(ranked, routing)
    if reference is not None:
        chosen = _reference_choice(chosen, bias, routing, *reference)
    order = ranked.masked_fill(~chosen, -torch.inf).topk(routing.chosen, -1).indices
    if logits.dtype == torch.float64:
        # In one order, whatever the ranking: the errors of one evaluation are added to another's.
        order = order.sort().values
    weights = _weights(scores.gather(1, order), routing, arithmetic)
    if arithmetic.narrows_scores(routing) or not routing.wide_weights:
        weights = _narrowed(weights, logits.dtype, routing, arithmetic, ROUTING)
    return torch.zeros_like(logits, dtype=weights.dtype).scatter(1, order, weights)


def _scores(logits: Tensor, routing: Routing, arithmetic: Arithmetic) -> Tensor:
    logits32 = at_least_float32(logits)
    if routing.score == "sigmoid":
        scores = logits32.sigmoid()
    elif _takes_softmax_last(routing, arithmetic):
        return logits
    else:
        scores = logits32.softmax(-1)
    if not arithmetic.softmax_after_topk:
        return scores
    is_last = routing.scaling == 1 and not (routing.normalized and routing.chosen > 1)
    point = ROUTING if is_last else ROUTER_SCORES
    return _narrowed(scores, logits.dtype, routing, arithmetic, point)


def _weights(scores: Tensor, routing: Routing, arithmetic: Arithmetic) -> Tensor:
    """Return the weights of the chosen experts from their scores, both (positions, chosen).

    What the last operation gives is not yet rounded as the program stores it.
    """

    def kept(x: Tensor) -> Tensor:
        if not arithmetic.narrows_scores(routing):
            return x
        return _narrowed(x, scores.dtype, routing, arithmetic, ROUTER_SCORES)

    if routing.score == "softmax" and routing.normalized:
        if _takes_softmax_last(routing, arithmetic):
            weights = at_least_float32(scores).softmax(-1)
        else:
            weights = scores / scores.sum(-1, keepdim=True)
    elif routing.normalized and routing.chosen > 1:
        weights = scores / kept(scores.sum(-1, keepdim=True) + 1e-20)
    else:
        weights = scores
    return weights if routing.scaling == 1 else kept(weights) * routing.scaling


def _narrowed(
    x: Tensor, dtype: torch.dtype, routing: Routing, arithmetic: Arithmetic, point: str
) -> Tensor:
    """Return x in the dtype of the logits, which is no narrow one if they are wide."""
    return x.to(dtype) if routing.wide_logits else arithmetic.narrowed(x, dtype, point)


def _takes_softmax_last(routing: Routing, arithmetic: Arithmetic) -> bool:
    """Return whether experts are chosen by logits, and weights are a softmax of the chosen ones."""
    return routing.softmax_last or (arithmetic.softmax_after_topk and routing.normalized)


def _top_k(ranked: Tensor, routing: Routing) -> Tensor:
    """Return (positions, experts): True for the chosen experts."""
    order = _in_chosen_groups(ranked, routing).topk(routing.chosen, -1).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, order, value=True)


def _in_chosen_groups(ranked: Tensor, routing: Routing) -> Tensor:
    """Return the scores, (positions, experts); -inf for experts in groups that are not chosen."""
    if routing.groups == 1:
        return ranked
    group_scores = _group_scores(ranked, routing)
    groups = torch.zeros_like(group_scores, dtype=torch.bool)
    groups.scatter_(1, group_scores.topk(routing.chosen_groups, -1).indices, value=True)
    members = groups.repeat_interleave(routing.experts // routing.groups, 1)
    return ranked.masked_fill(~members, -torch.inf)


def _group_scores(ranked: Tensor, routing: Routing) -> Tensor:
    """Return (positions, groups): the scores by which groups are chosen."""
    grouped = ranked.reshape(len(ranked), routing.groups, -1)
    return grouped.topk(routing.ranking, -1).values.sum(-1)


def _reference_choice(
    own: Tensor, bias: Tensor | None, routing: Routing, logits: Tensor, weights: Tensor
) -> Tensor:
    """Return (positions, experts): what these rules choose by the reference's logits.

    In a tie, it is what the reference chose. If that is not a choice of as many experts, it is
    `own`, the choice by the side's own logits.
    """
    reference_choice = weights != 0
    if reference_choice.shape != own.shape or bool(
        (reference_choice.sum(-1) != routing.chosen).any()
    ):
        return own
    scores = logits.double()
    if routing.score == "sigmoid":
        scores = scores.sigmoid()
    elif routing.groups > 1:
        scores = scores.softmax(-1)
    if bias is not None:
        scores = scores + bias.double()
    margin = _margin(_in_chosen_groups(scores, routing), routing.chosen)
    if routing.groups > 1:
        margin = torch.minimum(
            margin, _margin(_group_scores(scores, routing), routing.chosen_groups)
        )
    is_open = margin <= _TIE * torch.finfo(logits.dtype).eps * scores.abs().amax(-1)
    return torch.where(is_open[:, None], reference_choice, _top_k(scores, routing))


def _margin(scores: Tensor, chosen: int) -> Tensor:
    """Return (positions,): the lowest chosen score less the highest that is not chosen."""
    if chosen == scores.shape[-1]:
        return torch.full_like(scores[:, 0], torch.inf)
    best = scores.topk(chosen + 1, -1).values
    return best[:, -2] - best[:, -1]
