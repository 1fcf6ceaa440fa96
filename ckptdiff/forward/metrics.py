"""A job: measure how far apart two sides' logits are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.distance import square_of_difference
from ckptdiff.forward.kept import forget
from ckptdiff.forward.lockstep import LOGITS_POSITIONS, Logits, position_blocks, spread
from ckptdiff.results import Candidate, LogitMetrics, Next

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ckptdiff.forward.plan import ForwardRun, Section

CANDIDATES = 10  # likeliest tokens of a position that are returned


@dataclass(frozen=True, slots=True)
class _Row:
    """What is measured at one position. Logits have no unit; sums are over the vocabulary."""

    abs_sum: float  # of |A-B|
    max_abs: float  # largest |A-B|
    max_at: int  # its token
    delta_square: float  # sum of (A-B)², each side less its mean
    a_square: float  # sum of A², less its mean
    cosine: float  # of A and B, each less its mean: -1 to 1
    kl: float  # KL(A || B), in nats
    flips: bool  # the likeliest tokens differ
    unexplained: bool  # and A's margin to its second token is at least 2 max|A-B|
    overlaps: tuple[float, float]  # tokens in both top 5, and top 10, as a fraction
    nll: tuple[float, float] | None  # of the prompt's next token, in nats, by A and B
    padding: tuple[float, float]  # what the rows of padding add to either, in nats


@torch.inference_mode()
def logit_metrics(
    run: ForwardRun, exact: ForwardRun | None, section: Section
) -> tuple[LogitMetrics, tuple[Next, ...], float | None]:
    """Return the metrics, the likeliest tokens by position, and a ratio.

    The ratio is rms(A-B) over what independent rounding of both sides would give, at 128 positions
    of a longer prompt; None without an `exact` pass, in the verdict's dtype. Both passes were
    computed; `section` is the last one. What is kept of the comparison is dropped.
    Raises a CkptDiffError.
    """
    logits = Logits(run, section)
    rows: list[_Row] = []
    likeliest: list[Next] = []
    for block in position_blocks(len(run.ids), run.vocabulary):
        _measure_rows(run, block.start, logits.at(block), rows, likeliest)
    ratio = None if exact is None else _ratio(run, logits, Logits(exact, section))
    forget(run.comparison)
    return _metrics(rows, run.vocabulary), tuple(likeliest), ratio


def _ratio(run: ForwardRun, logits: Logits, exact_logits: Logits) -> float | None:
    """Return rms(A-B) over the rms of what both sides round; None if nothing is rounded."""
    rounding = apart = 0.0
    some = spread(len(run.ids), LOGITS_POSITIONS)
    for block in position_blocks(len(some), run.vocabulary):
        a, b, true_a, true_b = (
            side[:, : run.vocabulary]
            for both in (logits, exact_logits)
            for side in both.at(some[block])
        )
        rounding += square_of_difference(a, true_a) + square_of_difference(b, true_b)
        apart += square_of_difference(a, b)
        del a, b, true_a, true_b  # two blocks of logits are never in memory
    return math.sqrt(apart / rounding) if rounding else None


def _measure_rows(
    run: ForwardRun,
    start: int,
    pair: tuple[Tensor, Tensor],
    rows: list[_Row],
    likeliest: list[Next],
) -> None:
    """Add what is measured at the positions from `start`; logits are (positions, padded rows)."""
    count = run.vocabulary
    a, b = (side.cpu() for side in pair)
    for position, both in enumerate(zip(a, b, strict=True), start):
        (one, padding_a), (other, padding_b) = (
            (logits[:count].double(), logits[count:].double()) for logits in both
        )
        token = run.ids[position + 1] if position + 1 < len(run.ids) else None
        rows.append(_row(one, other, token, (padding_a, padding_b)))
        likeliest.append(_next(position, one, other))


def _row(a: Tensor, b: Tensor, token: int | None, padding: Sequence[Tensor]) -> _Row:
    """Return what is measured at a position: a and b are (vocabulary,), token the next id.

    `padding` are the logits of further rows of either side.
    """
    delta = (a - b).abs()
    log_a, log_b = (functional.log_softmax(x, -1) for x in (a, b))
    centred_a, centred_b = a - a.mean(), b - b.mean()
    count = min(CANDIDATES, len(a))
    best_a, best_b = (x.topk(count) for x in (a, b))
    flips = int(best_a.indices[0]) != int(best_b.indices[0])
    margin = float(best_a.values[0] - best_a.values[1]) if count > 1 else math.inf
    largest = float(delta.max())
    finite = math.isfinite(largest)
    return _Row(
        abs_sum=float(delta.sum()),
        max_abs=largest,
        max_at=int(delta.argmax()),
        delta_square=float((centred_a - centred_b).square().sum()),
        a_square=float(centred_a.square().sum()),
        cosine=float(functional.cosine_similarity(centred_a, centred_b, dim=0))
        if finite
        else math.nan,
        kl=float((log_a.exp() * (log_a - log_b)).sum()),
        flips=flips,
        unexplained=flips and not margin < 2 * largest,
        overlaps=(
            _overlap(best_a.indices, best_b.indices, 5),
            _overlap(best_a.indices, best_b.indices, 10),
        ),
        nll=None if token is None else (-float(log_a[token]), -float(log_b[token])),
        padding=(_added(a, padding[0]), _added(b, padding[1])),
    )


def _added(logits: Tensor, padding: Tensor) -> float:
    """Return by how much rows of padding raise the loss of any token, in nats."""
    if not len(padding):
        return 0.0
    return float(torch.logsumexp(torch.cat((logits, padding)), 0) - torch.logsumexp(logits, 0))


def _overlap(a: Tensor, b: Tensor, count: int) -> float:
    """Return which fraction of the first `count` ids is in both."""
    count = min(count, len(a))
    return len(set(a[:count].tolist()) & set(b[:count].tolist())) / count


def _metrics(rows: Sequence[_Row], tokens: int) -> LogitMetrics:
    """Return the metrics over all positions; `tokens` is the size of the vocabulary."""
    count = len(rows)
    worst = max(range(count), key=lambda i: (math.isnan(rows[i].max_abs), rows[i].max_abs))
    known = [row.nll for row in rows if row.nll is not None]
    nll = [sum(pair[side] for pair in known) / len(known) if known else None for side in (0, 1)]
    added = [math.fsum(r.padding[side] for r in rows if r.nll is not None) for side in (0, 1)]
    padded = [
        loss + more / len(known) if loss is not None and more else None
        for loss, more in zip(nll, added, strict=True)
    ]
    a_square = sum(row.a_square for row in rows)
    delta_square = sum(row.delta_square for row in rows)
    cosines = [row.cosine for row in rows]
    flips = sum(row.flips for row in rows)
    return LogitMetrics(
        max_abs=rows[worst].max_abs,
        max_at=(worst, rows[worst].max_at),
        mean_abs=sum(row.abs_sum for row in rows) / (count * tokens),
        rel_rms=math.sqrt(delta_square / a_square) if a_square else math.nan,
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
        nll_padded_a=padded[0],
        nll_padded_b=padded[1],
    )


def _next(position: int, a: Tensor, b: Tensor) -> Next:
    return Next(position, _candidates(a, b), _candidates(b, a))


def _candidates(own: Tensor, other: Tensor) -> tuple[Candidate, ...]:
    best = own.topk(min(CANDIDATES, len(own))).indices
    probabilities = torch.softmax(own, -1)[best].tolist()
    ranks = (1 + (other > other[best, None]).sum(-1)).tolist()
    return tuple(
        Candidate(token, probability, None, rank)
        for token, probability, rank in zip(best.tolist(), probabilities, ranks, strict=True)
    )
