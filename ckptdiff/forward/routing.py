"""From a router's logits to the weights of the experts that are chosen.

Sources: the TopKRouter classes of transformers' mixtral, qwen2_moe, qwen3_moe and deepseek_v3;
megatron.core.transformer.moe.moe_utils.topk_routing_with_score_function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.arithmetic import widened

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.model import Routing

Followed = tuple["Tensor", "Tensor"]  # the reference's logits, and the weights that it gives

_TIE = 8  # epsilons: scores that are no further apart are equal but for rounding


def route(
    logits: Tensor,
    bias: Tensor | None,
    routing: Routing,
    how: Arithmetic,
    followed: Followed | None = None,
) -> Tensor:
    """Return (positions, experts): the weights of the chosen, and zeros.

    `bias` of (experts) is added to scores for the choice alone. Experts are chosen by the logits
    that are `followed`, and where they leave it open, a tie but for rounding, as they were there:
    then a difference between two choices is one of rules and not of rounding.
    """
    scores = _scores(logits, routing, how)
    ranked = scores if bias is None else scores + bias.to(scores.dtype)
    chosen = _best(ranked, routing)
    if followed is not None:
        chosen = _followed(chosen, bias, routing, *followed)
    order = ranked.masked_fill(~chosen, -torch.inf).topk(routing.chosen, -1).indices
    weights = _weights(scores.gather(1, order), routing, how)
    if not routing.wide_weights:
        weights = weights.to(logits.dtype)
    return torch.zeros_like(logits, dtype=weights.dtype).scatter(1, order, weights)


def _scores(logits: Tensor, routing: Routing, how: Arithmetic) -> Tensor:
    wide = widened(logits)
    if routing.score == "sigmoid":
        scores = wide.sigmoid()
    elif how.routes_late and routing.normalized:
        return logits
    else:
        scores = wide.softmax(-1)
    return scores.to(logits.dtype) if how.routes_late else scores


def _weights(scores: Tensor, routing: Routing, how: Arithmetic) -> Tensor:
    """Return the weights of (positions, chosen) from the scores of the chosen."""
    if routing.score == "softmax" and routing.normalized:
        if how.routes_late:
            weights = widened(scores).softmax(-1).to(scores.dtype)
        else:
            weights = scores / scores.sum(-1, keepdim=True)
    elif routing.normalized and routing.chosen > 1:
        weights = scores / (scores.sum(-1, keepdim=True) + 1e-20)
    else:
        weights = scores
    return weights if routing.scaling == 1 else weights * routing.scaling


def _best(ranked: Tensor, routing: Routing) -> Tensor:
    """Return (positions, experts): which are chosen."""
    order = _allowed(ranked, routing).topk(routing.chosen, -1).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, order, value=True)


def _allowed(ranked: Tensor, routing: Routing) -> Tensor:
    """Return the scores, but for those of experts in groups that are not chosen."""
    if routing.groups == 1:
        return ranked
    worth = _worth(ranked, routing)
    groups = torch.zeros_like(worth, dtype=torch.bool)
    groups.scatter_(1, worth.topk(routing.chosen_groups, -1).indices, value=True)
    members = groups.repeat_interleave(routing.experts // routing.groups, 1)
    return ranked.masked_fill(~members, -torch.inf)


def _worth(ranked: Tensor, routing: Routing) -> Tensor:
    """Return (positions, groups): by which groups are chosen."""
    grouped = ranked.reshape(len(ranked), routing.groups, -1)
    return grouped.topk(routing.ranking, -1).values.sum(-1)


def _followed(
    own: Tensor, bias: Tensor | None, routing: Routing, logits: Tensor, weights: Tensor
) -> Tensor:
    """Return the choice of the rules from the reference's logits; where it is open, the choice."""
    theirs = weights != 0
    if theirs.shape != own.shape or bool((theirs.sum(-1) != routing.chosen).any()):
        return own
    scores = logits.double()
    if routing.score == "sigmoid":
        scores = scores.sigmoid()
    elif routing.groups > 1:
        scores = scores.softmax(-1)
    if bias is not None:
        scores = scores + bias.double()
    gap = _gap(_allowed(scores, routing), routing.chosen)
    if routing.groups > 1:
        gap = torch.minimum(gap, _gap(_worth(scores, routing), routing.chosen_groups))
    is_open = gap <= _TIE * torch.finfo(logits.dtype).eps * scores.abs().amax(-1)
    return torch.where(is_open[:, None], theirs, _best(scores, routing))


def _gap(scores: Tensor, chosen: int) -> Tensor:
    """Return (positions,): by how much the worst of the best is better than the next one."""
    if chosen == scores.shape[-1]:
        return torch.full_like(scores[:, 0], torch.inf)
    best = scores.topk(chosen + 1, -1).values
    return best[:, -2] - best[:, -1]
