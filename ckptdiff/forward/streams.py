"""The steps of a section in three streams: A, F (A's weights as B computes them), and B.

F goes with B as long as they are equal, so that two right sides cost two passes. A step is then
computed for F at some positions, or for one sequence, where one that differs would show; a step in
which it may not show is computed in full.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward import sizes
from ckptdiff.forward.batch import Streams
from ckptdiff.forward.blocks import spread
from ckptdiff.forward.compute import (
    BY_POSITION,
    COMPUTED,
    FLOOR_POSITIONS,
    ONE_MODEL,
    as_other,
    drifted_copies,
    is_equal,
    make_layer,
    place,
    take_or_raise,
)
from ckptdiff.forward.experts import positions_by_expert
from ckptdiff.forward.reading import twin_readers
from ckptdiff.forward.rules import have_same_rules
from ckptdiff.forward.steps import steps
from ckptdiff.results import StepApart

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ckptdiff.forward.batch import Chunk
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import PackedRun, Section
    from ckptdiff.forward.steps import Step, Values

ROUNDING = 50  # epsilons of fp32 or fp64 that a step of equal weights may be apart, at most
# Steps in which the positions of a sequence see each other, or know where they are.
BY_SEQUENCE = frozenset(
    {
        *("positions", "rotate", "rotate_latent", "attend"),
        *("convolve", "delta_rule", "scan"),
    }
)
_EXPERT_POSITIONS = 2  # of each expert, by which its step of A's weights is compared with B's
_UNLIMITED = 1 << 62  # bytes: a layer's experts are kept until the last chunk has used them


class SectionStreams:
    """The layers of a section's three streams, and the steps in which B differs from F so far."""

    def __init__(self, run: PackedRun, section: Section, device: torch.device) -> None:
        room = _UNLIMITED if device.type == "cpu" else None
        readers = twin_readers(COMPUTED[run.dtype], device, room)
        self.section, self.device = section, device
        self.a = make_layer(run.a, section.number, section.a, readers[0])
        self.f = make_layer(as_other(run.a, run.b), section.number, section.a, readers[0])
        self.b = make_layer(run.b, section.number, section.b, readers[1])
        self.steps = steps(section.part, self.a, self.b)
        self.is_one_program = self.a.arithmetic == self.f.arithmetic
        self._apart: dict[str, StepApart] = {}
        self._drifted: dict[str, list[int]] = {}  # by step: ranks of B with another copy

    @property
    def apart(self) -> tuple[StepApart, ...]:
        """The steps in which B gave another value than F from equal inputs, in order."""
        names = [name for step in self.steps for name in step.gives]
        return tuple(self._apart[name] for name in names if name in self._apart)

    def take(self, chunk: Chunk, taken: tuple[Step, ...], outputs: Iterable[str]) -> Streams:
        """Return the outputs of steps, from a chunk's values. Raises a CkptDiffError."""
        values = chunk.values
        for number, step in enumerate(taken):
            values = self._step(step, chunk, values)
            later = {name for other in taken[number + 1 :] for name in other.takes}
            values = values.only(frozenset(later.union(outputs)))
        return values

    def _step(self, step: Step, chunk: Chunk, values: Streams) -> Streams:
        self.a.reader.reads.clear()
        a = dict(zip(step.gives, self._given(step, self.a, chunk, values.a, "A"), strict=True))
        self.b.copied.clear()
        b = dict(zip(step.gives, self._given(step, self.b, chunk, values.b, "B"), strict=True))
        f = self._followed(step, chunk, values, a, b)
        if all(values.f[name] is values.b[name] for name in step.takes):
            if step.is_tap:
                self._judge(step, chunk, values, f, b)
        return Streams(values.a | a, values.f | f, values.b | b)

    def _given(
        self,
        step: Step,
        layer: LayerOf,
        chunk: Chunk,
        values: Values,
        letter: str,
        reference: Values | None = None,
    ) -> tuple[Tensor, ...]:
        """Return what a step gives for a whole chunk."""
        values = {name: values[name] for name in step.takes}

        def take(some: Values) -> tuple[Tensor, ...]:
            return take_or_raise(step, layer, some, self.section, reference, letter=letter)

        if step.method == "positions":  # the rows of the longest sequence begin with those of all
            longest = chunk.slices[_longest(chunk)]
            (rows,) = take({name: value[longest] for name, value in values.items()})
            return (torch.cat([rows[:length] for length in chunk.lengths]),)
        if step.method not in BY_SEQUENCE or len(chunk.lengths) == 1:
            return take(values)
        parts = [take({n: v[rows] for n, v in values.items()}) for rows in chunk.slices]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    # ── A's weights as B computes them ───────────────────────────────────────────────────────────

    def _followed(
        self, step: Step, chunk: Chunk, values: Streams, a: Values, b: Values
    ) -> Values:
        """Return what F gives: A's value or B's where it is the same, without computing it."""
        if self.is_one_program and _are_same(step, values.f, values.a):
            return dict(a)
        goes_with_b = _are_same(step, values.f, values.b)
        if goes_with_b and (not step.is_tap or self._is_alike(step, chunk, values.b, b)):
            return dict(b)
        # From equal inputs, a tie in a router's choice is decided as B decided it.
        reference = values.b | b if goes_with_b else None
        given = self._given(step, self.f, chunk, values.f, "A", reference)
        return dict(zip(step.gives, given, strict=True))

    def _is_alike(self, step: Step, chunk: Chunk, values: Values, b: Values) -> bool:
        """Return whether F gives what B does from B's values, as far as a sample shows.

        False as well where a sample may not show it.
        """
        if not have_same_rules(step, self.f, self.b, chunk.lengths):
            return False
        if step.method in BY_SEQUENCE and step.method != "positions":
            rows = chunk.slices[_longest(chunk)]
            some = {name: values[name][rows] for name in step.takes}
            given = take_or_raise(step, self.f, some, self.section, letter="A")
            theirs = [b[name][rows] for name in step.gives]
            return all(map(is_equal, given, theirs))
        some = self._sample(step, values)
        if some is None:
            return False
        pair = [
            take_or_raise(step, layer, some, self.section, letter=letter)
            for layer, letter in ((self.f, "A"), (self.b, "B"))
        ]
        return all(map(is_equal, *pair))

    def _sample(self, step: Step, values: Values) -> Values | None:
        """Return values at a few positions where each weight counts; None: at no few."""
        if step.method in BY_POSITION:
            taken = {name: values[name] for name in step.takes}
            some = spread(len(taken[step.takes[0]]), FLOOR_POSITIONS).to(self.device)
            if any(_is_hidden(value, some) for value in taken.values()):
                return None
            return {name: value[some] for name, value in taken.items()}
        if step.method not in ("activate_experts", "experts_out"):
            return None
        x, routing = (values[name] for name in step.takes)
        by_expert = positions_by_expert(routing)
        picked = [one[spread(len(one), _EXPERT_POSITIONS).to(one.device)] for one in by_expert]
        some = torch.cat(picked).unique()
        if step.method == "experts_out":  # a row for each choice, expert by expert
            x = x[torch.isin(torch.cat(by_expert), some)]
        else:
            x = x[some]
        return dict(zip(step.takes, (x, routing[some]), strict=True))

    # ── where B differs ──────────────────────────────────────────────────────────────────────────

    def _judge(self, step: Step, chunk: Chunk, values: Streams, f: Values, b: Values) -> None:
        """Note where B gives another value than F from equal inputs, and make equal ones one."""
        for name in step.gives:
            if f[name] is b[name]:
                continue
            if is_equal(f[name], b[name]):
                b[name] = f[name]
                continue
            rel = self._note(step, name, chunk, values, f[name], b[name])
            dtype = self.b.reader.dtype
            if dtype.itemsize >= 4 and rel <= ROUNDING * torch.finfo(dtype).eps:
                f[name] = b[name]
        if step.method not in self._drifted:
            self._drifted[step.method] = drifted_copies(self.b)
        for rank in self._drifted[step.method]:
            given = self._given(step, replace(self.b, copy=rank), chunk, values.b, "B")
            for name, value in zip(step.gives, given, strict=True):
                if not is_equal(f[name], value):
                    self._note(step, name, chunk, values, f[name], value)

    def _note(
        self, step: Step, name: str, chunk: Chunk, values: Streams, f: Tensor, b: Tensor
    ) -> float:
        """Note that a value differs, in the sequence in which most; return how far it does."""
        if why := sizes.of_values(name, f, b):
            raise UnsupportedLayout(f"{place(self.section)}{why}. {ONE_MODEL}")
        sequence_of = None
        if name == "experts_act":  # a row for each choice, expert by expert
            sequence_of = chunk.sequence_of(f.device)
            sequence_of = sequence_of[torch.cat(positions_by_expert(values.f["routing"]))]
        apart, size = (x.flatten(1).square().sum(1) for x in (f.double() - b.double(), f.double()))
        return self.note_totals(name, chunk, apart, size, sequence_of)

    def note_totals(
        self,
        name: str,
        chunk: Chunk,
        apart: Tensor,
        size: Tensor,
        sequence_of: Tensor | None = None,
    ) -> float:
        """Note that a value differs, and where most; return its distance there.

        `apart` and `size` are the sums of squares of F-B and of F by row, of the sequence of each.
        """
        if sequence_of is None:
            sequence_of = chunk.sequence_of(apart.device)
        rels = _by_sequence(apart, size, sequence_of, len(chunk.lengths))
        worst = max(range(len(rels)), key=rels.__getitem__)
        known = self._apart.get(name)
        if rels[worst] > (known.rel if known else 0.0):
            number = self.section.number if self.section.part == "layer" else None
            reads = tuple(self.a.reader.reads)
            self._apart[name] = StepApart(number, name, rels[worst], chunk.first + worst, reads)
        return rels[worst]


def _by_sequence(apart: Tensor, size: Tensor, sequence_of: Tensor, count: int) -> list[float]:
    """Return |F-B| / |F| over the rows of each sequence; infinite if it is not finite."""
    totals = []
    for squares in (apart, size):
        total = torch.zeros(count, dtype=torch.float64, device=squares.device)
        totals.append(total.index_add_(0, sequence_of, squares).sqrt().tolist())
    return [_rel(*pair) for pair in zip(*totals, strict=True)]


def _rel(apart: float, size: float) -> float:
    if apart == 0:
        return 0.0
    rel = apart / size if size else math.inf
    return rel if math.isfinite(rel) else math.inf


def _are_same(step: Step, one: Values, other: Values) -> bool:
    return all(one[name] is other[name] for name in step.takes)


def _longest(chunk: Chunk) -> int:
    return max(range(len(chunk.lengths)), key=chunk.lengths.__getitem__)


def _is_hidden(value: Tensor, some: Tensor) -> bool:
    """Return whether a feature is zero at some positions, and not at all: its weight may not show.

    Squared ReLU makes such ones.
    """
    flat = value.flatten(1)
    unseen = (flat[some] == 0).all(0)
    return bool(unseen.any()) and bool((flat[:, unseen] != 0).any())
