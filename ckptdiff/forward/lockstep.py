"""Jobs: compute a section on both sides, step by step, with one step's weights in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward import sizes
from ckptdiff.forward.blocks import position_blocks, spread
from ckptdiff.forward.compute import (
    BY_POSITION,
    COMPUTED,
    FLOOR_POSITIONS,
    ONE_MODEL,
    ROUNDING,
    as_other,
    drifted_copies,
    is_equal,
    make_layer,
    place,
    prepare_device,
    take_or_raise,
    unpadded,
)
from ckptdiff.forward.distance import Distance
from ckptdiff.forward.hints import NEARLY_EQUAL, hint
from ckptdiff.forward.kept import keep, kept
from ckptdiff.forward.plan import CHOSEN, LOGITS_POSITIONS
from ckptdiff.forward.reading import STORED, twin_readers
from ckptdiff.forward.steps import steps
from ckptdiff.results import Tap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import ForwardRun, Section
    from ckptdiff.forward.steps import Step, Values

_ALL = slice(None)


@torch.inference_mode()
def take_section(run: ForwardRun, section: Section) -> tuple[Tap, ...]:
    """Compute a section on both sides, each on its own values, which are kept for the next one.

    If the run compares, B also computes each step from A's values. So do A's weights in B's
    arithmetic: their distance is the floor, what arithmetic alone makes. Without `b_alone` that is
    all that B computes, and A's values are kept as its own. Logits are compared at 128 positions of
    a longer prompt, from first to last: the head does the same at each. After the last section
    their input is kept: they are many, and `Logits` gives them in blocks. Raises a CkptDiffError.
    """
    device = prepare_device(run.device)
    if section.part == "first":
        values_a = values_b = {"ids": torch.tensor(run.ids, device=device)}
    else:
        values_a, values_b = kept(run.comparison, run.dtype)
    readers = twin_readers(COMPUTED[run.dtype], device)
    layer_a = make_layer(run.a, section.number, section.a, readers[0])
    layer_b = make_layer(run.b, section.number, section.b, readers[1])
    a_as_b = make_layer(as_other(run.a, run.b), section.number, section.a, readers[0])
    taps: list[Tap] = []
    sequence = steps(section.part, layer_a, layer_b)
    for step in sequence:
        is_large = step.gives == ("logits",)
        if is_large and not run.compares:
            break
        taken = {name: values_a[name] for name in step.takes}
        if is_large:
            some = spread(len(run.ids), LOGITS_POSITIONS)
            taken = {name: value[some] for name, value in taken.items()}
        a = Given(step, layer_a, taken, run, section, letter="A")
        reference = values_a if is_large else values_a | a.by_name()
        b: Given | None = None
        if run.compares and step.is_tap:
            b = Given(step, layer_b, taken, run, section, reference, letter="B")
            floor = Given(step, a_as_b, taken, run, section, reference, letter="A")
            taps += _taps(a, b, floor)
        if not is_large:
            if run.b_alone:
                is_own = any(values_a[name] is not values_b[name] for name in step.takes)
                if b is None or is_own or step.replays:
                    # Without the reference: in its own pass, B's router chooses by itself.
                    b = Given(step, layer_b, values_b, run, section, letter="B")
                values_b = values_b | b.by_name(like=reference)
            else:
                values_b = reference
            values_a = reference
        for reader in readers:
            reader.forget()
    outputs = sequence[-1].takes if section.part == "last" else sequence[-1].gives
    between = tuple({name: values[name] for name in outputs} for values in (values_a, values_b))
    keep(run.comparison, run.dtype, between)
    if "routing" in values_a and not run.compares:
        chosen = tuple(values["routing"] != 0 for values in (values_a, values_b))
        keep(run.comparison, f"{CHOSEN} {section.number}", chosen)
    return tuple(taps)


class Given:
    """What a step gives on one side: computed whole and once, but logits in blocks of positions."""

    def __init__(
        self,
        step: Step,
        side: LayerOf,
        values: Values,
        run: ForwardRun,
        section: Section,
        reference: Values | None = None,
        *,
        letter: str,
    ) -> None:
        self.step, self.side, self.run, self.section = step, side, run, section
        self.letter = letter
        self._values, self._reference = {name: values[name] for name in step.takes}, reference
        self._last: tuple[slice | Tensor, tuple[Tensor, ...]] | None = None

    @property
    def blocks(self) -> list[slice]:
        """The positions that are computed at a time."""
        if self.step.gives != ("logits",):
            return [_ALL]
        return position_blocks(self.positions, self.run.vocabulary)

    @property
    def positions(self) -> int:
        return len(self._values[self.step.takes[0]])

    def at(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """Return what the step gives at some positions; logits without those of padding."""
        if self._last is not None and self._last[0] is rows:
            return self._last[1]
        if self._last is not None and self._last[0] is _ALL:
            return tuple(value[rows] for value in self._last[1])
        self._last = None  # two blocks of logits are never in memory
        values = self._values
        if rows is not _ALL:
            values = {name: value[rows] for name, value in values.items()}
        given = take_or_raise(
            self.step, self.side, values, self.section, self._reference, letter=self.letter
        )
        named = zip(self.step.gives, given, strict=True)
        given = tuple(unpadded(name, value, self.run.vocabulary) for name, value in named)
        self._last = rows, given
        return given

    def by_name(self, like: Values | None = None) -> Values:
        """Return all that the step gives; a value that equals one of `like` is that one."""
        given = dict(zip(self.step.gives, self.at(_ALL), strict=True))
        return {
            name: like[name] if like and is_equal(like[name], value) else value
            for name, value in given.items()
        }

    def with_copy(self, rank: int) -> Given:
        """Return the same with the copies of replicated tensors that a rank holds."""
        return self._like(replace(self.side, copy=rank))

    def _like(self, side: LayerOf) -> Given:
        return Given(
            self.step,
            side,
            self._values,
            self.run,
            self.section,
            self._reference,
            letter=self.letter,
        )

    def cast(self, dtype: torch.dtype) -> Given:
        """Return the same with weights that are cast to a dtype first."""
        return self._like(replace(self.side, reader=self.side.reader.casting(dtype)))


class Logits:
    """The logits of both sides, each on its own values, after the last section of a pass."""

    def __init__(self, run: ForwardRun, section: Section) -> None:
        device = prepare_device(run.device)
        self._section = section
        readers = twin_readers(COMPUTED[run.dtype], device)
        sides = (run.a, section.a, readers[0]), (run.b, section.b, readers[1])
        self._layers = [
            make_layer(side, section.number, ranks, reader) for side, ranks, reader in sides
        ]
        self._values: tuple[Values, Values] = kept(run.comparison, run.dtype)

    def at(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return A's and B's logits at some positions, (positions, padded vocabulary)."""
        (step,) = (step for step in steps("last") if step.gives == ("logits",))
        given: list[Tensor] = []
        for letter, layer, values in zip("AB", self._layers, self._values, strict=True):
            some = {name: values[name][rows] for name in step.takes}
            given += take_or_raise(step, layer, some, self._section, letter=letter)
        a, b = given
        return a, b


def _apart(a: Given, b: Given, blocks: list[slice]) -> list[float]:
    """Return |a-b| / |a| of each value that a step gives, over blocks of positions."""
    distances = [Distance() for _ in a.step.gives]
    for rows in blocks:
        for distance, x, y in zip(distances, a.at(rows), b.at(rows), strict=True):
            distance.add(x, y)
    return [distance.rel for distance in distances]


def _taps(a: Given, b: Given, floor: Given) -> Iterator[Tap]:
    """Yield a tap for each value that a step gives; all start from A's values."""
    b.side.copied.clear()
    rels = _apart(a, b, a.blocks)
    givens = [b for _ in rels]
    for name, x, y in zip(a.step.gives, a.at(a.blocks[0]), b.at(a.blocks[0]), strict=True):
        if why := sizes.of_values(name, x, y):
            raise UnsupportedLayout(f"{place(a.section)}{why}. {ONE_MODEL}")
    copies = drifted_copies(b.side)
    for copy in copies:
        other = b.with_copy(copy)
        for i, rel in enumerate(_apart(a, other, a.blocks)):
            if rel >= rels[i]:
                rels[i], givens[i] = rel, other
    rests: list[float | None] = [None for _ in rels] if copies else _uncast_distances(a, b, rels)
    floors = _floors(a, b, floor, rels)
    number = a.section.number if a.section.part == "layer" else None
    reads = tuple(a.side.reader.reads)
    for i, name in enumerate(a.step.gives):
        words = _hint(a, givens[i], i) if rels[i] > NEARLY_EQUAL else ""
        if copies:
            more = f"; {words}" if words else ""
            words = f"rank {copies[0]} has another copy{more}"
        yield Tap(number, name, rels[i], floors[i], reads, words, rests[i])


def _floors(a: Given, b: Given, floor: Given, rels: list[float]) -> list[float]:
    """Return the floors of what a step gives, |A-B| / |A| with A's weights on both sides.

    Where A's weights give the very values that B's give, they are the distances of A and B. At some
    positions that is seen, where each is computed by itself and no distance is beyond rounding.
    """
    if max(rels) == 0:
        return rels
    if (
        a.step.method in BY_POSITION
        and max(rels) <= ROUNDING * torch.finfo(a.side.reader.dtype).eps
    ):
        some = spread(a.positions, FLOOR_POSITIONS)
        if all(map(is_equal, b.at(some), floor.at(some))):
            return rels
    return _apart(a, floor, a.blocks)


def _hint(a: Given, b: Given, index: int) -> str:
    """Return how B's value differs from A's, in words, if it is the same in all blocks."""
    words = {hint(a.at(rows)[index], b.at(rows)[index]) for rows in a.blocks}
    odd = sorted(one for one in words if "not finite" in one)
    return odd[-1] if odd else words.pop() if len(words) == 1 else ""


def _uncast_distances(a: Given, b: Given, rels: list[float]) -> list[float | None]:
    """Return the relative distances that remain once one side's weights are cast as the other's.

    Weights may have been cast to a narrow dtype and stored in a wide one again. None for a tap of
    which no cast explains at least nine tenths.
    """
    rests: list[float | None] = [None for _ in rels]
    for side, dtype in _possible_casts(a.side, b.side, max(rels)):
        one, other = (a.cast(dtype), b) if side is a.side else (a, b.cast(dtype))
        left = _apart(one, other, a.blocks)
        for i, (rel, rest, best) in enumerate(zip(rels, left, rests, strict=True)):
            if rest <= rel / 10 < math.inf and (best is None or rest < best):
                rests[i] = rest
    return rests


def _possible_casts(
    layer_a: LayerOf, layer_b: LayerOf, rel: float
) -> Iterator[tuple[LayerOf, torch.dtype]]:
    """Yield the casts, (layer, dtype), that may explain a relative distance `rel`."""
    dtypes = [{STORED[d] for d in side.reader.reads.values()} for side in (layer_a, layer_b)]
    if rel <= 50 * torch.finfo(layer_a.reader.dtype).eps or any(
        len(stored) != 1 for stored in dtypes
    ):
        return
    (dtype_a,), (dtype_b,) = dtypes
    if dtype_a != dtype_b:
        yield (layer_a, dtype_b) if dtype_b.itemsize <= dtype_a.itemsize else (layer_b, dtype_a)
    for dtype in (torch.bfloat16, torch.float16):
        if dtype_a == dtype_b != dtype and dtype.itemsize <= dtype_a.itemsize:
            yield from ((layer_a, dtype), (layer_b, dtype))
