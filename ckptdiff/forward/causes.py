"""A job: put the causes of a difference into words, each with its part of the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.forward.attribution import FUSED, carried_points
from ckptdiff.forward.points import (
    BIAS,
    COMMON,
    EXPERT_SUMS,
    NORM,
    PARTIAL,
    ROUTER,
    ROUTER_SCORES,
    ROUTING,
    SCORES,
    SINKS,
    TABLE,
    TABLE_PRODUCT,
    WEIGHTED_INPUT,
    WEIGHTED_OUTPUT,
)
from ckptdiff.results import Budget, CauseShare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.forward.plan import Energy, ForwardRun


@dataclass(frozen=True, slots=True)
class _Cause:
    """A line of the budget. The first four are in NVIDIA's list of causes for Llama 2."""

    words: str
    point: str  # where a program rounds: see `points`
    why_alike: str  # why it is 0 where both sides round alike; empty: then it has no line
    why_zero: str = "exactly 0 for these weights"  # where one side alone rounds, without effect


_CAUSES = (
    _Cause(
        "Q, K, V and gate, up as one product",
        FUSED,
        "exactly 0: neither side is computed the other way",
        "exactly 0, as was tried: each element is the same sum, joined or not",
    ),
    _Cause(
        "scores rounded before they are scaled",
        SCORES,
        "exactly 0: both sides scale alike",
        "exactly 0: the scale is a power of two, which moves no digit",
    ),
    _Cause(
        "rotary products rounded",
        TABLE_PRODUCT,
        "exactly 0: transformers and Megatron turn alike; only Meta's code does not",
    ),
    _Cause(
        "rotary tables rounded",
        TABLE,
        "exactly 0: transformers and Megatron turn alike; only Meta's code does not",
    ),
    _Cause(
        "default dtype fp16",
        "default",
        "exactly 0: both sides are computed in {dtype} with angles in float32; "
        "had it cast the weights, the verdict would tell",
    ),
    _Cause("norm rounded before its weight", NORM, ""),
    _Cause("sums over tensor ranks rounded", PARTIAL, ""),
    _Cause("product rounded before its bias", BIAS, ""),
    _Cause("scores beside a sink rounded once more", SINKS, ""),
    _Cause("router's logits rounded", ROUTER, ""),
    _Cause("router's scores rounded before they are weights", ROUTER_SCORES, ""),
    _Cause("weights of experts rounded", ROUTING, ""),
    _Cause("expert weighted before its last product", WEIGHTED_INPUT, ""),
    _Cause("expert weighted after its last product", WEIGHTED_OUTPUT, ""),
    _Cause("sums over experts rounded", EXPERT_SUMS, ""),
)


def budget(
    run: ForwardRun, layers: Sequence[Energy], last: Energy
) -> tuple[tuple[CauseShare, ...], Budget | None, str]:
    """Return each cause's part of the logits' squared difference, the budget, and a note.

    The rounding that both sides have in common is first. Parts add up to 1, or are all 0 if the
    sides round alike everywhere. `layers` are sums of squares of the residual stream after each
    layer, `last` those of the logits. If some value is not finite, there is only the note.
    """
    energies = (last.exact, *last.predicted, *last.emulated, *last.measured)
    if not all(map(math.isfinite, energies)) or not last.exact:
        return (), None, f"no attribution: some value is not finite in {run.dtype}"
    sizes = [
        tuple(math.sqrt(square / last.exact) for square in squares)
        for squares in (last.predicted, last.measured, last.emulated)
    ]
    found = Budget(*sizes)  # type: ignore[arg-type]
    note = (
        f"attribution: roundings one by one predict that the logits are {found.predicted[2]:.2e} "
        f"apart, relative to A's; they are {found.measured[2]:.2e}"
    )
    lines = [_line(_noise(found, last), COMMON, "rounding that both sides share", layers, last)]
    for cause in _CAUSES:
        energy = last.points.get(cause.point, 0.0)
        if energy or cause.why_alike:
            lines.append(_line(_note(cause, run, last), cause.point, cause.words, layers, last))
    return tuple(lines), found, note


def _sums(point: str, run: ForwardRun) -> str:
    """Return of how many ranks either side adds up what they computed, in words."""
    a, b = (
        side.expert_ranks * side.expert_slices if point == EXPERT_SUMS else side.ranks
        for side in (run.a, run.b)
    )
    if a == b and point == PARTIAL:  # they cut experts otherwise
        return f"of an expert, A adds up {run.a.expert_slices}, B {run.b.expert_slices}"
    return f"A adds up {a}, B {b}" if a != b else "A and B add up in other dtypes or orders"


def _line(note: str, point: str, words: str, layers: Sequence[Energy], last: Energy) -> CauseShare:
    """Return a cause's part of the squared difference, and its relative rms after each layer."""
    whole = last.predicted[2]
    energy = last.points.get(point, 0.0)
    sizes = [
        math.sqrt(layer.points.get(point, 0.0) / layer.exact) if layer.exact else math.nan
        for layer in layers
    ]
    return CauseShare(words, energy / whole if whole else 0.0, tuple(sizes), note)


def _noise(found: Budget, last: Energy) -> str:
    if not last.predicted[2]:
        return "exactly 0: both sides round alike everywhere"
    a, b, _ = found.measured
    rest = 1 - last.points.get(COMMON, 0.0) / last.predicted[2]
    return (
        f"noise of two correct runs: A is {a:.1e} from its exact logits, B {b:.1e}; the causes "
        f"below have it fall otherwise on either side, and make {rest:.0%} themselves"
    )


def _note(cause: _Cause, run: ForwardRun, last: Energy) -> str:
    """Return which side rounds, or why a cause makes no difference."""
    if last.points.get(cause.point):
        if cause.point in (PARTIAL, EXPERT_SUMS):
            return _sums(cause.point, run)
        if cause.point == FUSED:
            return "another kernel adds up in another order"
        return "in A alone" if cause.point in carried_points(run.a, run.b) else "in B alone"
    if cause.point in last.points:
        return cause.why_zero
    return cause.why_alike.format(dtype=run.dtype)
