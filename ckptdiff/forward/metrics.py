"""A job: measure how far apart two sides' logits are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.blocks import blocks, position_blocks, spread
from ckptdiff.forward.distance import square_of_difference
from ckptdiff.forward.kept import forget
from ckptdiff.forward.lockstep import Logits
from ckptdiff.forward.plan import LOGITS_POSITIONS
from ckptdiff.results import Candidate, LogitMetrics, Next

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ckptdiff.forward.plan import ForwardRun, Section

CANDIDATES = 10  # likeliest tokens of a position that are returned
_RANKED = 64  # of the other side's, among which they are looked for first
_MOST_MEASURED = 1 << 19  # logits of a side that are measured at a time: more leave the cache


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
    following = (*run.ids[start + 1 :], None)
    for some in blocks(len(pair[0]), count, _MOST_MEASURED):
        both = [side[some].cpu().double() for side in pair]
        a, b = (_Side.of(logits[:, :count], logits[:, count:]) for logits in both)
        rows += _rows(a, b, following[some])
        candidates = zip(_candidates(a, b), _candidates(b, a), strict=True)
        likeliest += [Next(at, *two) for at, two in enumerate(candidates, start + some.start)]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side's logits at some positions, and what is made of them."""

    logits: Tensor  # (positions, vocabulary), in float64
    logs: Tensor  # of probabilities, in nats
    best: Tensor  # (positions, candidates): the likeliest tokens
    padding: list[float]  # by position, what the rows of padding add to the loss, in nats

    @classmethod
    def of(cls, logits: Tensor, padding: Tensor) -> _Side:
        best = logits.topk(min(CANDIDATES, logits.shape[-1])).indices
        added = torch.zeros(len(logits))
        if padding.shape[-1]:
            total = torch.logsumexp(logits, -1)
            added = torch.logaddexp(total, torch.logsumexp(padding, -1)) - total
        return cls(logits, functional.log_softmax(logits, -1), best, added.tolist())


def _rows(a: _Side, b: _Side, tokens: Sequence[int | None]) -> Iterator[_Row]:
    """Yield what is measured at each position; `tokens` are the prompt's next ids."""
    apart = (a.logits - b.logits).abs()
    largest = apart.max(-1)
    centred_a, centred_b = (x.logits - x.logits.mean(-1, keepdim=True) for x in (a, b))
    measured = zip(
        apart.sum(-1).tolist(),
        *(part.tolist() for part in largest),
        (centred_a - centred_b).square().sum(-1).tolist(),
        centred_a.square().sum(-1).tolist(),
        functional.cosine_similarity(centred_a, centred_b, dim=-1).tolist(),
        (a.logs.exp() * (a.logs - b.logs)).sum(-1).tolist(),
        strict=True,
    )
    highest = a.logits.gather(-1, a.best)
    for i, (abs_sum, max_abs, max_at, delta_square, a_square, cosine, kl) in enumerate(measured):
        best_a, best_b = (side.best[i].tolist() for side in (a, b))
        flips = best_a[0] != best_b[0]
        margin = float(highest[i, 0] - highest[i, 1]) if len(best_a) > 1 else math.inf
        token = tokens[i]
        yield _Row(
            abs_sum=abs_sum,
            max_abs=max_abs,
            max_at=max_at,
            delta_square=delta_square,
            a_square=a_square,
            cosine=cosine if math.isfinite(max_abs) else math.nan,
            kl=kl,
            flips=flips,
            unexplained=flips and not margin < 2 * max_abs,
            overlaps=(_overlap(best_a, best_b, 5), _overlap(best_a, best_b, 10)),
            nll=None if token is None else (-float(a.logs[i, token]), -float(b.logs[i, token])),
            padding=(a.padding[i], b.padding[i]),
        )


def _overlap(a: Sequence[int], b: Sequence[int], count: int) -> float:
    """Return which fraction of the first `count` ids is in both."""
    count = min(count, len(a))
    return len({*a[:count]} & {*b[:count]}) / count


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


def _candidates(own: _Side, other: _Side) -> Iterator[tuple[Candidate, ...]]:
    """Yield the likeliest tokens of each position, with their ranks on the other side."""
    probabilities = own.logs.gather(-1, own.best).exp()
    ranks = _ranks(other.logits, other.logits.gather(-1, own.best))
    for parts in zip(own.best.tolist(), probabilities.tolist(), ranks.tolist(), strict=True):
        yield tuple(
            Candidate(token, probability, None, rank)
            for token, probability, rank in zip(*parts, strict=True)
        )


def _ranks(logits: Tensor, some: Tensor) -> Tensor:
    """Return 1 and how many of a position's logits are above each of `some`, of its shape."""
    top = logits.topk(min(_RANKED, logits.shape[-1])).values
    ranks = 1 + (top[:, None] > some[..., None]).sum(-1)
    # Above those that the last of `top` is not above, there are no others.
    for i, j in torch.nonzero(~(top[:, -1:] <= some)).tolist():
        ranks[i, j] = 1 + (logits[i] > some[i, j]).sum()
    return ranks
