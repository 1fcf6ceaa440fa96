"""Jobs: trace how much each kind of rounding adds to each side's error and to their difference.

If roundings are independent, their errors add up in squares (first-order error propagation):
E² = sum of E_p² over the points p where a program rounds, and for two sides
D² = sum of |e_A,p - e_B,p|². A point where one program alone rounds is a cause of the difference.
Where both round, the error is e_A - e_B, computed element by element: its square is E_A² + E_B²
less what both have in common, so no correlation has to be assumed.

Switching one cause on and off in the low precision shows nothing: any change, however small, makes
all later roundings fall differently, and each cause would seem to make the whole difference.

A stream is one evaluation of a model in float64 that carries the errors of some points only.

In a model with experts, errors are small only where all evaluations choose the same experts: the
streams of both sides, and both passes in the low precision. Where one does not, tracing stops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.blocks import position_blocks
from ckptdiff.forward.compute import (
    COMPUTED,
    PROGRAMS,
    make_layer,
    prepare_device,
    take_or_raise,
    unpadded,
)
from ckptdiff.forward.kept import keep, kept
from ckptdiff.forward.lockstep import Logits
from ckptdiff.forward.plan import CHOSEN, START, Energy
from ckptdiff.forward.points import COMMON, EXPERT_SUMS, PARTIAL, points
from ckptdiff.forward.reading import Reader
from ckptdiff.forward.rounding import Carrying, Rounding
from ckptdiff.forward.steps import steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import ForwardRun, ForwardSide, Section
    from ckptdiff.forward.steps import Step, Values

ROUNDED = "rounded"  # the stream that carries every rounding of the program
# The stream that carries the difference between one product of several matrices and several.
FUSED = "fused"
# What other streams than those of one kind of rounding are, in words.
_EVALUATIONS = {
    START: "without any rounding",
    ROUNDED: "with its roundings emulated",
    FUSED: "with only the sums of its products in another order",
    COMMON: "with only the roundings that both sides share",
}
_STREAMS = "streams"  # the name under which they are kept


@torch.inference_mode()
def trace_section(run: ForwardRun, section: Section) -> Energy:
    """Compute a section on the streams of both sides, which are kept for the next one.

    `run` is a pass in the low precision that was computed. If some evaluation chooses other experts
    than A's there, the Energy says so and has no sums. Raises a CkptDiffError.
    """
    device = prepare_device(run.device)
    traces = [
        _Trace(run, section, own, other, ranks, device)
        for own, other, ranks in ((run.a, run.b, section.a), (run.b, run.a, section.b))
    ]
    sequence = steps(section.part, *(trace.layer for trace in traces))
    (output,) = sequence[-1].gives
    if section.part == "first":
        start = {"ids": torch.tensor(run.ids, device=device)}
        values = [dict.fromkeys(trace.names, start) for trace in traces]
    else:
        values = kept(run.comparison, _STREAMS)  # of each side, by stream, then by name
    low = Logits(run, section) if section.part == "last" else None
    energy = Energy()
    for rows in _rows(run, section):
        try:
            outputs = [
                trace.run_steps(sequence, _sliced(streams, rows))
                for trace, streams in zip(traces, values, strict=True)
            ]
        except _RoutedOtherwise as stop:
            return Energy(stopped=str(stop))
        measured = [x[:, : run.vocabulary] for x in low.at(rows)] if low is not None else None
        _add_energy(energy, outputs[0], outputs[1], measured)
    between = [{name: {output: value} for name, value in streams.items()} for streams in outputs]
    keep(run.comparison, _STREAMS, between if section.part != "last" else None)
    return energy


class _RoutedOtherwise(Exception):
    """An evaluation chooses other experts than A's in the low precision: says which, and where."""


class _Trace:
    """The streams of one side through a section."""

    def __init__(
        self,
        run: ForwardRun,
        section: Section,
        own: ForwardSide,
        other: ForwardSide,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self.run, self.section, self.device = run, section, device
        self.letter = "A" if own is run.a else "B"
        self.dtype = COMPUTED[run.dtype]
        self.layer = self._layer(own, ranks, torch.float64)
        self.carried = carried_points(own, other)
        joins = PROGRAMS[own.program].fused, PROGRAMS[other.program].fused
        # Megatron's files hold joined matrices. The other side computes its own both ways.
        compares = joins == (False, True) and own.kind == "huggingface"
        self.low_layer = self._layer(own, ranks, self.dtype) if compares else None

    def _layer(self, of: ForwardSide, ranks: Ranks, dtype: torch.dtype) -> LayerOf:
        reader = Reader(dtype, self.device)
        reader.cast_dtype = self.dtype  # the weights as the low precision has them
        return make_layer(of, self.section.number, ranks, reader)

    @property
    def names(self) -> list[str]:
        return [ROUNDED, *self.carried, *([FUSED] if self.low_layer is not None else ())]

    def run_steps(self, sequence: Sequence[Step], streams: dict[str, Values]) -> dict[str, Tensor]:
        """Return the value that the last step gives, by stream."""
        for number, step in enumerate(sequence):
            needed = {name for s in sequence[number + 1 :] for name in s.takes} or set(step.gives)
            for name, given in self._take(step, streams).items():
                values = streams[name] | dict(zip(step.gives, given, strict=True))
                streams[name] = {name: values[name] for name in needed & values.keys()}
            if "routing" in step.gives:
                self._check_choice({name: streams[name]["routing"] for name in streams})
            for layer in (self.layer, self.low_layer):
                if layer is not None:
                    layer.reader.forget()
        (output,) = sequence[-1].gives
        return {
            name: unpadded(output, values[output], self.run.vocabulary)
            for name, values in streams.items()
        }

    def _take(self, step: Step, streams: dict[str, Values]) -> dict[str, tuple[Tensor, ...]]:
        """Return the values that a step gives, by stream."""
        arithmetic = vars(self.layer.arithmetic)
        rounding = Rounding(**arithmetic, dtype=self.dtype)
        given = {
            ROUNDED: self._step_of(step, replace(self.layer, arithmetic=rounding), streams[ROUNDED])
        }
        joins = self.low_layer is not None
        carried = self.carried | ({FUSED: frozenset()} if joins else {})
        for name, errors in carried.items():
            carrying = Carrying(**arithmetic, only=errors, errors=iter(rounding.errors))
            given[name] = self._step_of(
                step, replace(self.layer, arithmetic=carrying), streams[name]
            )
        # In every program, an expert's gate and up are one product.
        if self.low_layer is not None and "routing" not in (*step.takes, *step.gives):
            low_layer = {
                name: value.to(self.dtype) if value.is_floating_point() else value
                for name, value in streams[ROUNDED].items()
            }
            joined = replace(
                self.low_layer, arithmetic=replace(self.low_layer.arithmetic, fused=True)
            )
            pairs = zip(
                given[FUSED],
                self._step_of(step, joined, low_layer),
                self._step_of(step, self.low_layer, low_layer),
                strict=True,
            )
            given[FUSED] = tuple(x + (one.double() - other.double()) for x, one, other in pairs)
        return given

    def _check_choice(self, routing: dict[str, Tensor]) -> None:
        """Raise _RoutedOtherwise unless all choose the experts that A does in the low precision.

        `routing` are the experts' weights, (positions, experts), by stream.
        """
        low = kept(self.run.comparison, f"{CHOSEN} {self.section.number}")
        in_low = f"in {self.run.dtype}"
        evaluations = [(f"B {in_low}", low[1])]
        for name, weights in routing.items():
            words = _EVALUATIONS.get(name, "with only the roundings of one kind")
            evaluations.append((f"{self.letter} {words}", weights != 0))
        for words, chosen in evaluations:
            if count := int((chosen != low[0]).any(-1).sum()):
                raise _RoutedOtherwise(
                    f"in layer {self.section.number}, {count} of {len(chosen)} tokens "
                    f"{'goes' if count == 1 else 'go'} to other experts in {words} than in A "
                    f"{in_low}; roundings are traced only where all evaluations choose alike"
                )

    def _step_of(self, step: Step, layer: LayerOf, values: Values) -> tuple[Tensor, ...]:
        return take_or_raise(step, layer, values, self.section, letter=self.letter)


def carried_points(own: ForwardSide, other: ForwardSide) -> dict[str, frozenset[str]]:
    """Return the streams of a side, and the rounding points whose errors each carries.

    Points where the other side rounds alike have one stream together. Each other one is a cause of
    the difference, and has a stream of its own.
    """
    rounds, others = (
        points(
            replace(PROGRAMS[side.program], ranks=max(side.ranks, side.expert_slices)), side.model
        )
        for side in (own, other)
    )
    alike = rounds & others
    if (own.ranks, own.expert_slices) != (other.ranks, other.expert_slices):
        alike -= {PARTIAL}
    if _expert_sums(own) != _expert_sums(other):
        alike -= {EXPERT_SUMS}
    points_alone = sorted(rounds - alike)
    return {
        START: frozenset(),
        COMMON: alike,
        **{point: frozenset({point}) for point in points_alone},
    }


def _expert_sums(side: ForwardSide) -> tuple[int, int, bool]:
    """Return what tells how experts are added up: in which parts, and whether in float32."""
    routing = side.model.routing
    if routing is None:
        return 1, 1, False
    # Of two there is one sum, whoever adds them up.
    ranks = side.expert_ranks if routing.chosen > 2 else 1
    return ranks, side.expert_slices, routing.wide_sum


def _rows(run: ForwardRun, section: Section) -> list[slice]:
    """Return the positions that are computed together: all, but of logits only a few."""
    positions = len(run.ids)
    whole = section.part != "last"
    return [slice(positions)] if whole else position_blocks(positions, run.vocabulary)


def _sliced(streams: dict[str, Values], rows: slice) -> dict[str, Values]:
    return {
        name: {key: value[rows] for key, value in values.items()}
        for name, values in streams.items()
    }


def _add_energy(
    energy: Energy, a: dict[str, Tensor], b: dict[str, Tensor], low: list[Tensor] | None
) -> None:
    """Add the sums of squares over some positions. Values are (positions, …), by stream."""
    energy.exact += _square(a[START])
    errors = [{name: side[name] - side[START] for name in side if name != START} for side in (a, b)]
    rounded = [side.pop(ROUNDED) for side in errors]
    _add(energy.emulated, *rounded)
    for point in dict.fromkeys((*errors[0], *errors[1])):
        parts = [side.get(point) for side in errors]
        apart = _difference(*parts)
        energy.points[point] = energy.points.get(point, 0.0) + _square(apart)
        squares = [_square(part) if part is not None else 0.0 for part in parts]
        for letter, square in enumerate((*squares, _square(apart))):
            energy.predicted[letter] += square
    if low is not None:
        _add(energy.measured, low[0].double() - a[START], low[1].double() - b[START])


def _add(squares: list[float], a: Tensor, b: Tensor) -> None:
    for letter, error in enumerate((a, b, a - b)):
        squares[letter] += _square(error)


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor:
    if a is None or b is None:
        (one,) = (error for error in (a, b) if error is not None)
        return one
    return a - b


def _square(x: Tensor) -> float:
    return float(x.square().sum())
