"""Jobs: trace what each kind of rounding makes of the values, and of the difference of two sides.

With roundings that are independent, what each makes of a value adds up in squares (first order
error propagation): E² = sum of E_p² over the points p where a program rounds, and for two sides
D² = sum of |e_A,p - e_B,p|². Points where one program alone rounds are causes of the difference.
Where both round, their errors are taken together: e_A - e_B, which is E_A² + E_B² less what is
common to both; so no correlation has to be assumed.

Switching one cause on and off in the low precision tells nothing: any change, however small, has
all later roundings fall otherwise, and each cause would seem to make the whole difference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.lockstep import (
    COMPUTED,
    PROGRAMS,
    make_layer,
    packed,
    prepare,
    take_or_tell,
    unpacked,
    unpadded,
)
from ckptdiff.forward.plan import START, Energy, Traced
from ckptdiff.forward.reading import Reader
from ckptdiff.forward.rounding import COMMON, PARTIAL, Carrying, Rounding, points
from ckptdiff.forward.steps import steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import ForwardRun, ForwardSide, RawTensor, Section, Streams
    from ckptdiff.forward.steps import Step, Values

    Low = tuple[dict[str, RawTensor], dict[str, RawTensor]]

ROUNDED = "rounded"  # the stream in which the program rounds everywhere
FUSED = "fused"  # what one product of several matrices makes in the low precision
MOST_LOGITS = 1 << 24  # of a stream at a time


@torch.inference_mode()
def trace_section(
    run: ForwardRun, section: Section, a: Streams, b: Streams, low: Low | None = None
) -> Traced:
    """Take the streams of both sides through a section.

    `run.dtype` is the low precision, `low` the logits that were computed in it; they are needed for
    the last section. Raises a CkptDiffError.
    """
    device = prepare(run.device)
    traces = [
        _Trace(run, section, of, other, ranks, device)
        for of, other, ranks in ((run.a, run.b, section.a), (run.b, run.a, section.b))
    ]
    sequence = steps(section.part, *(trace.layer for trace in traces))
    (kept,) = sequence[-1].gives
    values = [
        trace.unpacked(streams) for trace, streams in zip(traces, (a, b), strict=True)
    ]  # by stream, then by name
    measured = [unpacked(side, device)[kept] for side in low] if low is not None else None
    energy = Energy()
    for rows in _rows(run, section, values[0]):
        ends = [
            trace.through(sequence, _cut(streams, rows))
            for trace, streams in zip(traces, values, strict=True)
        ]
        _count(energy, ends[0], ends[1], [m[rows] for m in measured] if measured else None)
    if section.part == "last":
        return Traced({}, {}, energy)
    one, other = (
        {name: packed({kept: value}) for name, value in streams.items()} for streams in ends
    )
    return Traced(one, other, energy)


class _Trace:
    """The streams of one side through a section."""

    def __init__(
        self,
        run: ForwardRun,
        section: Section,
        of: ForwardSide,
        other: ForwardSide,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self.run, self.section, self.device = run, section, device
        self.who = "A" if of is run.a else "B"
        self.dtype = COMPUTED[run.dtype]
        self.layer = self._layer(of, ranks, torch.float64)
        self.only = carried(of, other)
        joins = PROGRAMS[of.program].fused, PROGRAMS[other.program].fused
        # Megatron's matrices are joined in its files; they can be told apart on the other side.
        compares = joins == (False, True) and of.kind == "huggingface"
        self.low = self._layer(of, ranks, self.dtype) if compares else None

    def _layer(self, of: ForwardSide, ranks: Ranks, dtype: torch.dtype) -> LayerOf:
        reader = Reader(dtype, self.device)
        reader.rounding = self.dtype  # the low precision's weights
        return make_layer(of, self.section.number, ranks, reader)

    @property
    def names(self) -> list[str]:
        return [ROUNDED, *self.only, *([FUSED] if self.low is not None else ())]

    def unpacked(self, streams: Streams) -> dict[str, Values]:
        begin = streams.get(START, {})
        return {name: unpacked(streams.get(name, begin), self.device) for name in self.names}

    def through(self, sequence: Sequence[Step], streams: dict[str, Values]) -> dict[str, Tensor]:
        """Return what the last step gives, by stream."""
        for number, step in enumerate(sequence):
            needed = {name for s in sequence[number + 1 :] for name in s.takes} or set(step.gives)
            for name, given in self._take(step, streams).items():
                values = streams[name] | dict(zip(step.gives, given, strict=True))
                streams[name] = {name: values[name] for name in needed & values.keys()}
            for layer in (self.layer, self.low):
                if layer is not None:
                    layer.reader.forget()
        (kept,) = sequence[-1].gives
        return {
            name: unpadded(kept, values[kept], self.run.vocabulary)
            for name, values in streams.items()
        }

    def _take(self, step: Step, streams: dict[str, Values]) -> dict[str, tuple[Tensor, ...]]:
        """Return what a step gives, by stream."""
        how = vars(self.layer.how)
        rounding = Rounding(**how, dtype=self.dtype)
        given = {ROUNDED: self._taken(step, replace(self.layer, how=rounding), streams[ROUNDED])}
        only = self.only | ({FUSED: frozenset()} if self.low is not None else {})
        for name, errors in only.items():
            carrying = Carrying(**how, only=errors, errors=iter(rounding.errors))
            given[name] = self._taken(step, replace(self.layer, how=carrying), streams[name])
        if self.low is not None:
            low = {
                name: value.to(self.dtype) if value.is_floating_point() else value
                for name, value in streams[ROUNDED].items()
            }
            joined = replace(self.low, how=replace(self.low.how, fused=True))
            pairs = zip(
                given[FUSED],
                self._taken(step, joined, low),
                self._taken(step, self.low, low),
                strict=True,
            )
            given[FUSED] = tuple(x + (one.double() - other.double()) for x, one, other in pairs)
        return given

    def _taken(self, step: Step, layer: LayerOf, values: Values) -> tuple[Tensor, ...]:
        return take_or_tell(step, layer, values, self.section, who=self.who)


def carried(of: ForwardSide, other: ForwardSide) -> dict[str, frozenset[str]]:
    """Return the streams of a side, and the points whose errors each carries.

    A point where the other side rounds alike is common to both; every other one is a cause, and has
    a stream for itself.
    """
    one, two = (replace(PROGRAMS[side.program], ranks=side.ranks) for side in (of, other))
    alike = points(one) & points(two)
    if one.ranks != two.ranks:
        alike -= {PARTIAL}
    own = sorted(points(one) - alike)
    return {START: frozenset(), COMMON: alike, **{point: frozenset({point}) for point in own}}


def _rows(run: ForwardRun, section: Section, streams: dict[str, Values]) -> Iterator[slice]:
    """Yield the positions that are computed together: of logits, a few."""
    (value, *_) = streams[START].values()
    step = max(1, MOST_LOGITS // run.vocabulary) if section.part == "last" else len(value)
    for start in range(0, len(value), step):
        yield slice(start, start + step)


def _cut(streams: dict[str, Values], rows: slice) -> dict[str, Values]:
    return {
        name: {key: value[rows] for key, value in values.items()}
        for name, values in streams.items()
    }


def _count(
    energy: Energy, a: dict[str, Tensor], b: dict[str, Tensor], low: list[Tensor] | None
) -> None:
    """Add the squares of some positions."""
    energy.exact += _square(a[START])
    errors = [{name: side[name] - side[START] for name in side if name != START} for side in (a, b)]
    rounded = [side.pop(ROUNDED) for side in errors]
    _add(energy.emulated, *rounded)
    for point in dict.fromkeys((*errors[0], *errors[1])):
        parts = [side.get(point) for side in errors]
        apart = _difference(*parts)
        energy.points[point] = energy.points.get(point, 0.0) + _square(apart)
        squares = [_square(part) if part is not None else 0.0 for part in parts]
        for who, square in enumerate((*squares, _square(apart))):
            energy.predicted[who] += square
    if low is not None:
        _add(energy.measured, low[0].double() - a[START], low[1].double() - b[START])


def _add(squares: list[float], a: Tensor, b: Tensor) -> None:
    for who, error in enumerate((a, b, a - b)):
        squares[who] += _square(error)


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor:
    if a is None or b is None:
        (one,) = (error for error in (a, b) if error is not None)
        return one
    return a - b


def _square(x: Tensor) -> float:
    return float(x.square().sum())
