"""The steps of a section in three streams: A, F (A's weights as B computes them), and B.

F goes with B as long as they are equal, so that two right sides cost two passes. A step is then
computed for F at some positions, or for one sequence, where one that differs would show; a step in
which it may not show is computed in full.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward import sizes
from ckptdiff.forward.batch import PackedChunk, Streams
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
from ckptdiff.forward.device import has_products
from ckptdiff.forward.experts import positions_by_expert
from ckptdiff.forward.reading import twin_readers
from ckptdiff.forward.rules import have_same_rules
from ckptdiff.forward.steps import LOOKUPS, steps
from ckptdiff.results import StepApart

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import PackedRun, Section
    from ckptdiff.forward.steps import Step, Values

ROUNDING = 50  # epsilons of fp32 or fp64 that a step of equal weights may be apart, at most
# Steps in which the positions of a sequence see each other.
BY_SEQUENCE = frozenset(
    {
        *("positions", "attend"),
        *("convolve", "delta_rule", "scan"),
    }
)
_ROTATIONS = frozenset({"rotate", "rotate_latent"})  # in which a position's place counts
_EXPERT_POSITIONS = 2  # of each expert, by which its step of A's weights is compared with B's
_ANY_LENGTH = 1 << 62  # positions
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
        widens = not has_products(COMPUTED[run.dtype], device)
        for layer in (self.a, self.f, self.b):
            layer.arithmetic = replace(layer.arithmetic, widens=widens)
        self.steps = steps(section.part, self.a, self.b)
        self.is_one_program = self.a.arithmetic == self.f.arithmetic
        self._apart: dict[str, StepApart] = {}
        # Steps in which F is known to give what B does, and for sequences of at most what length.
        self._trusted: dict[str, int] = {}
        self._drifted: dict[str, list[int]] = {}  # by step: ranks of B with another copy

    @property
    def apart(self) -> tuple[StepApart, ...]:
        """The steps in which B gave another value than F from equal inputs, in order."""
        names = [name for step in self.steps for name in step.gives]
        return tuple(self._apart[name] for name in names if name in self._apart)

    def take(self, chunk: PackedChunk, taken: tuple[Step, ...], outputs: Iterable[str]) -> Streams:
        """Return the outputs of steps, from a chunk's values. Raises a CkptDiffError."""
        values = chunk.values
        for number, step in enumerate(taken):
            values = self._step(step, chunk, values)
            later = {name for other in taken[number + 1 :] for name in other.takes}
            values = values.only(frozenset(later.union(outputs)))
        return values

    def take_layer(self, chunk: PackedChunk, outputs: Iterable[str], most: int) -> Streams:
        """Return the outputs of a layer, as `take` does.

        Where a sequence alone has more than `most` positions, steps in which they do not see each
        other are taken for so many at a time.
        """
        if sum(chunk.lengths) <= most or len(chunk.lengths) > 1:
            return self.take(chunk, self.steps, outputs)
        values, left = chunk.values, list(self.steps)
        for is_whole, group in groupby(self.steps, key=_is_of_a_sequence):
            taken = tuple(group)
            del left[: len(taken)]
            needed = frozenset(outputs).union(*(step.takes for step in left))
            given = needed.intersection(name for step in taken for name in step.gives)
            rest = PackedChunk(chunk.first, chunk.lengths, values)
            if is_whole:
                values = self.take(rest, taken, needed)
            else:
                parts = [self.take(part, taken, given) for part in rest.cut(most)]
                values = values.with_parts(parts, given).only(needed)
        return values

    def _step(self, step: Step, chunk: PackedChunk, values: Streams) -> Streams:
        self.a.reader.reads.clear()
        a = dict(zip(step.gives, self._given(step, self.a, chunk, values.a, "A"), strict=True))
        self.b.copied.clear()
        b = dict(zip(step.gives, self._given(step, self.b, chunk, values.b, "B"), strict=True))
        f = self._followed(step, chunk, values, a, b)
        if _are_same(step, values.f, values.b):
            if step.is_tap:
                self._judge(step, chunk, values, f, b)
            else:  # equal values go on as one, or no later step would be compared
                b |= {name: f[name] for name in step.gives if is_equal(f[name], b[name])}
        return Streams(values.a | a, values.f | f, values.b | b)

    def _given(
        self,
        step: Step,
        layer: LayerOf,
        chunk: PackedChunk,
        values: Values,
        letter: str,
        reference: Values | None = None,
    ) -> tuple[Tensor, ...]:
        """Return what a step gives for a whole chunk."""
        values = {name: values[name] for name in step.takes}
        layer.lengths = chunk.lengths if step.method in _ROTATIONS else ()

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
        self, step: Step, chunk: PackedChunk, values: Streams, a: Values, b: Values
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

    def _is_alike(self, step: Step, chunk: PackedChunk, values: Values, b: Values) -> bool:
        """Return whether F gives what B does from B's values, as far as a sample shows.

        What only rounding moves is noted, and is alike. False as well where a sample may not show
        a difference.
        """
        if not have_same_rules(step, self.f, self.b, chunk.lengths):
            return False
        longest = _longest(chunk)
        if chunk.lengths[longest] <= self._trusted.get(step.method, 0):
            return True
        if step.method in _ROTATIONS or (step.method in BY_SEQUENCE and step.method != "positions"):
            rows = chunk.slices[longest]
            some = {name: values[name][rows] for name in step.takes}
            theirs = tuple(b[name][rows] for name in step.gives)
            sequence_of = torch.full((chunk.lengths[longest],), longest, device=self.device)
            trusted = chunk.lengths[longest]
        else:
            trusted, positions = 0, self._positions(step, values)
            if positions is None:
                return False
            some = _at_positions(step, values, positions)
            theirs = take_or_raise(step, self.b, some, self.section, letter="B")
            sequence_of = chunk.sequence_of(self.device)[positions]
            enough = len(positions) == FLOOR_POSITIONS and step.method in BY_POSITION
            if enough and all(map(_has_all_features, some.values())):
                trusted = _ANY_LENGTH
        self.f.lengths = ()
        mine = take_or_raise(step, self.f, some, self.section, letter="A")
        for name, x, y in zip(step.gives, mine, theirs, strict=True):
            if is_equal(x, y):
                continue
            if x.shape != y.shape or not self._is_rounding(max(_distances(x, y))):
                return False
            rows_of = sequence_of
            if name == "experts_act":  # a row for each choice, expert by expert
                rows_of = sequence_of[torch.cat(positions_by_expert(some["routing"]))]
            self.note_totals(name, chunk, *_squares(x, y), rows_of)
        self._trusted[step.method] = trusted
        return True

    def _positions(self, step: Step, values: Values) -> Tensor | None:
        """Return a few positions at which each weight of a step counts; None: there are no few."""
        if step.method in BY_POSITION:
            some = spread(len(values[step.takes[0]]), FLOOR_POSITIONS).to(self.device)
            hidden = any(_is_hidden(values[name], some) for name in step.takes)
            return None if hidden else some
        if step.method not in ("activate_experts", "experts_out"):
            return None
        by_expert = positions_by_expert(values[step.takes[1]])
        picked = [one[spread(len(one), _EXPERT_POSITIONS).to(one.device)] for one in by_expert]
        return torch.unique(torch.cat(picked))  # type: ignore[no-any-return]

    def _is_rounding(self, rel: float) -> bool:
        """Return whether a distance is one that the order of sums makes."""
        dtype = self.b.reader.dtype
        return dtype.itemsize >= 4 and rel <= ROUNDING * torch.finfo(dtype).eps

    # ── where B differs ──────────────────────────────────────────────────────────────────────────

    def _judge(self, step: Step, chunk: PackedChunk, values: Streams, f: Values, b: Values) -> None:
        """Note where B gives another value than F from equal inputs, and make equal ones one."""
        for name in step.gives:
            if f[name] is b[name]:
                continue
            if is_equal(f[name], b[name]):
                b[name] = f[name]
                continue
            rel = self._note(name, chunk, values, f[name], b[name])
            if self._is_rounding(rel) and step.method not in LOOKUPS:
                f[name] = b[name]
        if step.method not in self._drifted:
            self._drifted[step.method] = drifted_copies(self.b)
        for rank in self._drifted[step.method]:
            given = self._given(step, replace(self.b, copy=rank), chunk, values.b, "B")
            for name, value in zip(step.gives, given, strict=True):
                if not is_equal(f[name], value):
                    self._note(name, chunk, values, f[name], value)

    def _note(self, name: str, chunk: PackedChunk, values: Streams, f: Tensor, b: Tensor) -> float:
        """Note that a value differs, in the sequence in which most; return how far it does."""
        if why := sizes.of_values(name, f, b):
            raise UnsupportedLayout(f"{place(self.section)}{why}. {ONE_MODEL}")
        sequence_of = None
        if name == "experts_act":  # a row for each choice, expert by expert
            sequence_of = chunk.sequence_of(f.device)
            sequence_of = sequence_of[torch.cat(positions_by_expert(values.f["routing"]))]
        return self.note_totals(name, chunk, *_squares(f, b), sequence_of)

    def note_totals(
        self,
        name: str,
        chunk: PackedChunk,
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


def _squares(f: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of squares of F-B and of F by row."""
    wide = f.double()
    apart, size = ((x * x).flatten(1).sum(1) for x in (wide - b, wide))
    return apart, size


def _distances(f: Tensor, b: Tensor) -> list[float]:
    """Return |F-B| / |F| of each row."""
    apart, size = _squares(f, b)
    return [_rel(*pair) for pair in zip(apart.sqrt().tolist(), size.sqrt().tolist(), strict=True)]


def _at_positions(step: Step, values: Values, positions: Tensor) -> Values:
    """Return what a step takes at some positions, in ascending order."""
    taken = {name: values[name] for name in step.takes}
    if step.method == "experts_out":  # a row for each choice, expert by expert
        routing = taken[step.takes[1]]
        at = torch.isin(torch.cat(positions_by_expert(routing)), positions)
        return {step.takes[0]: taken[step.takes[0]][at], step.takes[1]: routing[positions]}
    return {name: value[positions] for name, value in taken.items()}


def _rel(apart: float, size: float) -> float:
    if apart == 0:
        return 0.0
    rel = apart / size if size else math.inf
    return rel if math.isfinite(rel) else math.inf


def _is_of_a_sequence(step: Step) -> bool:
    """Return whether a position's place counts in a step, or others of its sequence do."""
    return step.method in BY_SEQUENCE or step.method in _ROTATIONS


def _are_same(step: Step, one: Values, other: Values) -> bool:
    return all(one[name] is other[name] for name in step.takes)


def _longest(chunk: PackedChunk) -> int:
    return max(range(len(chunk.lengths)), key=chunk.lengths.__getitem__)


def _has_all_features(value: Tensor) -> bool:
    """Return whether no feature is zero at all of the positions."""
    return bool((value != 0).any(0).all())


def _is_hidden(value: Tensor, some: Tensor) -> bool:
    """Return whether a feature is zero at some positions, and not at all: its weight may not show.

    Squared ReLU makes such ones.
    """
    flat = value.flatten(1)
    unseen = (flat[some] == 0).all(0)
    return bool(unseen.any()) and bool((flat[:, unseen] != 0).any())
