"""A job: measure how far two sides' logits are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.lockstep import unpacked
from ckptdiff.results import Candidate, LogitMetrics, Next

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ckptdiff.forward.plan import RawTensor

    Pair = tuple[dict[str, RawTensor], dict[str, RawTensor]]

CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class _Row:
    """What one position shows."""

    abs_sum: float
    max_abs: float
    max_at: int
    square: float  # of the difference, the means removed
    size: float  # of A's, likewise
    cosine: float
    kl: float
    flips: bool
    unexplained: bool
    overlaps: tuple[float, float]  # of five and of ten
    nll: tuple[float, float] | None  # of the token that comes next in the prompt


@torch.inference_mode()
def logit_metrics(
    pair: Pair, exact: Pair | None, ids: Sequence[int]
) -> tuple[LogitMetrics, tuple[Next, ...], float | None]:
    """Return the metrics, the likeliest tokens by position, and how large the difference is.

    That last number is the rms of the difference over what independent rounding of both sides
    would give, from the logits that the sides have in the `exact` dtype; None without them.
    """
    a, b = _logits(pair)
    rows = []
    following = []
    for position in range(len(a)):
        token = ids[position + 1] if position + 1 < len(ids) else None
        one, other = a[position].double(), b[position].double()
        rows.append(_row(one, other, token))
        following.append(_next(position, one, other))
    return _joined(rows, a.shape[-1]), tuple(following), _ratio(a, b, exact)


def _logits(pair: Pair) -> tuple[Tensor, Tensor]:
    a, b = (unpacked(values, torch.device("cpu"))["logits"] for values in pair)
    return a, b


def _row(a: Tensor, b: Tensor, token: int | None) -> _Row:
    apart = (a - b).abs()
    log_a, log_b = (functional.log_softmax(x, -1) for x in (a, b))
    flat_a, flat_b = a - a.mean(), b - b.mean()
    count = min(CANDIDATES, len(a))
    best_a, best_b = (x.topk(count) for x in (a, b))
    flips = int(best_a.indices[0]) != int(best_b.indices[0])
    margin = float(best_a.values[0] - best_a.values[1]) if count > 1 else math.inf
    largest = float(apart.max())
    finite = math.isfinite(largest)
    return _Row(
        abs_sum=float(apart.sum()),
        max_abs=largest,
        max_at=int(apart.argmax()),
        square=float((flat_a - flat_b).square().sum()),
        size=float(flat_a.square().sum()),
        cosine=float(functional.cosine_similarity(flat_a, flat_b, dim=0)) if finite else math.nan,
        kl=float((log_a.exp() * (log_a - log_b)).sum()),
        flips=flips,
        unexplained=flips and not margin < 2 * largest,
        overlaps=(
            _overlap(best_a.indices, best_b.indices, 5),
            _overlap(best_a.indices, best_b.indices, 10),
        ),
        nll=None if token is None else (-float(log_a[token]), -float(log_b[token])),
    )


def _overlap(a: Tensor, b: Tensor, count: int) -> float:
    count = min(count, len(a))
    return len(set(a[:count].tolist()) & set(b[:count].tolist())) / count


def _joined(rows: Sequence[_Row], tokens: int) -> LogitMetrics:
    count = len(rows)
    worst = max(range(count), key=lambda i: (math.isnan(rows[i].max_abs), rows[i].max_abs))
    told = [row.nll for row in rows if row.nll is not None]
    nll = [sum(pair[side] for pair in told) / len(told) if told else None for side in (0, 1)]
    size = sum(row.size for row in rows)
    square = sum(row.square for row in rows)
    cosines = [row.cosine for row in rows]
    flips = sum(row.flips for row in rows)
    return LogitMetrics(
        max_abs=rows[worst].max_abs,
        max_at=(worst, rows[worst].max_at),
        mean_abs=sum(row.abs_sum for row in rows) / (count * tokens),
        rel_rms=math.sqrt(square / size) if size else math.nan,
        cosine_min=math.nan if any(map(math.isnan, cosines)) else min(cosines),
        kl_mean=sum(row.kl for row in rows) / count,
        kl_max=max((row.kl for row in rows), key=lambda kl: (math.isnan(kl), kl)),
        top1_agree=1 - flips / count,
        flips=flips,
        flips_unexplained=sum(row.unexplained for row in rows),
        top5_overlap=sum(row.overlaps[0] for row in rows) / count,
        top10_overlap=sum(row.overlaps[1] for row in rows) / count,
        nll_a=nll[0],
        nll_b=nll[1],
    )


def _next(position: int, a: Tensor, b: Tensor) -> Next:
    return Next(position, _candidates(a, b), _candidates(b, a))


def _candidates(own: Tensor, other: Tensor) -> tuple[Candidate, ...]:
    best = own.topk(min(CANDIDATES, len(own))).indices
    probabilities = torch.softmax(own, -1)
    return tuple(
        Candidate(int(i), float(probabilities[i]), None, 1 + int((other > other[i]).sum()))
        for i in best
    )


def _ratio(a: Tensor, b: Tensor, exact: Pair | None) -> float | None:
    """Return rms(A-B) / sqrt(E_A² + E_B²), E being a side's distance to its exact logits."""
    if exact is None:
        return None
    true_a, true_b = _logits(exact)
    own = [float((x.double() - y.double()).square().sum()) for x, y in ((a, true_a), (b, true_b))]
    apart = float((a.double() - b.double()).square().sum())
    return math.sqrt(apart / sum(own)) if sum(own) else None
