"""The verdict on two forward passes: what it is, and why, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.comparison.run import diff
from ckptdiff.config.compare import field_text, is_fed
from ckptdiff.config.other_keys import NOT_KNOWN
from ckptdiff.config.refused import refused
from ckptdiff.dtypes import BY_FLAG, FLOATS
from ckptdiff.logits.effects import effects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.forward.plan import ForwardSide
    from ckptdiff.results import LogitVerdict, Tap

# The threshold of a tap is the larger of these multiples of the floor and of the dtype's epsilon,
# and at most the third, a multiple of epsilon whatever the floor is.
_FLOOR_FACTOR, _EPSILON_FACTOR = 20, 50
_MAX_EPSILON_FACTOR = 2**13
_FAULT_FACTOR = 100  # times the threshold: a tap above it is no small difference
_LISTED = 3  # settings, or tensors, that are named


@dataclass(frozen=True, slots=True)
class Judged:
    """What the taps alone tell. Distances are relative: |A-B| / |A|."""

    floor: float
    threshold: float
    verdict: LogitVerdict
    first: Tap | None  # the first above the threshold


def threshold_of(floor: float, dtype: str) -> float:
    """Return the relative distance that rounding explains, where right programs are `floor` apart.

    20 times that, or 50 times the dtype's epsilon if that is more, but at most 1e-3 in fp32.
    """
    epsilon = FLOATS[BY_FLAG[dtype]].epsilon
    return min(max(_FLOOR_FACTOR * floor, _EPSILON_FACTOR * epsilon), _MAX_EPSILON_FACTOR * epsilon)


def judge_taps(taps: Sequence[Tap], dtype: str) -> Judged:
    """Return what the taps tell; a floor above the largest threshold is a fault."""
    floor = max((tap.floor for tap in taps if math.isfinite(tap.floor)), default=0.0)
    threshold = threshold_of(floor, dtype)
    above = [tap for tap in taps if not tap.rel <= threshold]
    if not above:
        return Judged(floor, threshold, "arithmetic", None)
    faults = [tap for tap in above if not tap.judged <= threshold]
    if any(not tap.judged <= _FAULT_FACTOR * threshold for tap in faults):
        return Judged(floor, threshold, "weights-or-config", faults[0])
    return Judged(floor, threshold, "small", (faults or above)[0])


def place(tap: Tap) -> str:
    """Return the layer and the name of a tap, in words."""
    return tap.name if tap.layer is None else f"{tap.name} of layer {tap.layer}"


class Reasons:
    """What the configs and the tensors of two sides add to what the taps tell."""

    def __init__(
        self,
        pair: tuple[Assembled, Assembled],
        sides: tuple[ForwardSide, ForwardSide],
        reference: str,
        executor: Executor,
        config: Sequence[ConfigDiff],
    ) -> None:
        self.pair, self.executor = pair, executor
        a, b = (side.model.not_computed for side in sides)
        self.not_computed = [
            *(("A's and B's " if words in b else "A's ") + words for words in a),
            *("B's " + words for words in b if words not in a),
        ]
        self.refused = [
            f"{letter}: {words}"
            for letter, side in zip("AB", pair, strict=True)
            for words in refused(side)
        ]
        fixed = [side.model.fixed for side in sides]
        # What both sides do is no cause of a difference.
        self.fixed = [one for one in (*fixed[0], *fixed[1]) if not all(one in f for f in fixed)]
        self.taken = [side.model.taken for side in sides]
        # Of what differs without a meaning that is known, no step is known either.
        self.unknown = [line for line in config if line.status == "unknown"]
        self.conflicts = [line for line in config if line.status == "conflict"]
        self.effects = {
            line.meaning: effects(line, pair, reference)
            for line in self.conflicts
            if line.moves != frozenset()
        }

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return what has to hold for the verdict, as a config cannot say it; a clause each."""
        return tuple(
            f"{letter} is run with the same {words} as {other}"
            for letter, other, taken in zip("AB", "BA", self.taken, strict=True)
            for words in taken
        )

    def verdict(self, judged: Judged) -> LogitVerdict:
        """Return the verdict: not `arithmetic` while it cannot be told what a side computes."""
        is_open = judged.verdict == "arithmetic" and self.undecided()
        return "undecided" if is_open else judged.verdict

    def undecided(self) -> list[str]:
        """Return why it cannot be told what both sides compute, a clause each."""
        whys = []
        if self.refused:
            whys.append(_first_of(self.refused))
        if self.not_computed:
            whys.append(f"ckptdiff does not compute {_first_of(self.not_computed)}")
        conflicts = [
            line
            for line in self.conflicts
            if line.moves != frozenset()
            and not self._is_computed_by_both(line)
            and not self._is_condition(line)
            and not self._is_said(line)
        ]
        if conflicts:
            whys.append(f"the configs conflict in what is not computed here: {_listed(conflicts)}")
        meaningless = [
            line for line in self.unknown if line.moves is None and not self._is_said(line)
        ]
        if meaningless:
            whys.append(
                f"the configs differ in what is not known to ckptdiff: {_listed(meaningless)}"
            )
        return whys

    def sentence(self, verdict: LogitVerdict, judged: Judged, taps: Sequence[Tap]) -> str:
        """Return the verdict in words. The taps have the canonical names of what they read."""
        largest = max(tap.rel for tap in taps)
        close = f"no step differs by more than {largest:.1e}" if largest else "every step is equal"
        first = judged.first
        if verdict == "undecided":
            return f"Not decided: {'; '.join(self.undecided())}. Apart from that, {close}."
        if first is None:
            if judged.floor:
                floor = f"{judged.floor:.1e}"
                close += f"; A's own weights, computed both ways, differ by up to {floor}"
            return f"Only arithmetic for this prompt{self._condition()}: {close}."
        if first.rest is not None and first.judged < first.rel and verdict == "small":
            return f"Small: the weights were cast, so {place(first)} differs by {first.rel:.1e}."
        kind = (
            "Weights or config differ"
            if verdict == "weights-or-config"
            else "Small, but no rounding"
        )
        hint = f" ({first.hint})" if first.hint else ""
        first_words = f"{place(first)}, relative difference {first.rel:.2g}{hint}"
        sentence = f"{kind}: the first step that differs is {first_words}. {self.cause(first)}"
        if not first.reads:  # a fault of a config may hide one of the weights
            above = (tap for tap in taps if tap.reads and not tap.judged <= judged.threshold)
            if (other := next(above, None)) and (differing := self._differing(other)):
                sentence += f" So does {place(other)}, by {other.rel:.2g}: {differing}"
        return sentence

    def without_effect(self) -> Iterator[str]:
        """Yield notes of what both sides compute, each in its way, without an effect here."""
        for line in self.conflicts:
            if self._is_computed_by_both(line):
                yield f"the configs conflict, without effect on this prompt: {_in_words(line)}"
            elif line.moves == frozenset() and not is_fed(line):
                yield f"the configs conflict in what no logit here depends on: {_in_words(line)}"

    def _is_said(self, line: ConfigDiff) -> bool:
        """Return whether a line's setting is among those of a side that are not computed."""
        is_arg = any(side.checkpoint.convention == "megatron" for side in self.pair)
        # Of args that no release has, some alone are named.
        return (is_arg and line.note == NOT_KNOWN) or any(
            line.meaning in words for words in self.not_computed
        )

    def _is_computed_by_both(self, line: ConfigDiff) -> bool:
        return set(self.effects.get(line.meaning, ())) == {"computed"}

    def _is_condition(self, line: ConfigDiff) -> bool:
        """Return whether a side takes a line's setting from the other."""
        words = {one for taken in self.taken for one in taken}
        return "taken" in self.effects[line.meaning] or line.meaning.lower() in words

    def _condition(self) -> str:
        """Return what a config cannot say as a condition, or nothing."""
        return "".join(
            f", if {letter} is run with the same {_and(taken)}"
            for letter, taken in zip("AB", self.taken, strict=True)
            if taken
        )

    def _differing(self, tap: Tap) -> str:
        """Return which of the tensors that a tap reads differ, in words, or nothing."""
        a, b = (side.tensors for side in self.pair)
        modules = {name.rpartition(".")[0] for name in tap.reads}
        alone = [n for n in b if n not in a and n.rpartition(".")[0] in modules]
        names = [*(n for n in tap.reads if n in a or n in b), *alone]
        results = list(diff(*self.pair, self.executor, names=names)) if names else []
        differing = [r.name for r in results if r.status not in ("same", "close", "error")]
        if not differing:
            unread = next((r for r in results if r.status == "error"), None)
            return "" if unread is None else f"Which tensors differ is not known: {unread.error}."
        shown = sorted(differing)[:_LISTED]
        more = [f"{len(differing) - _LISTED} more"] if len(differing) > _LISTED else []
        return f"{' and '.join([*shown, *more])} {'differ' if differing[1:] else 'differs'}."

    def cause(self, tap: Tap) -> str:
        """Return, in words, which tensors that a tap reads differ, or what else is the cause."""
        if differing := self._differing(tap):
            return differing
        equal = "The tensors that it reads are equal" if tap.reads else "It reads no tensor"
        if "not finite" in tap.hint:
            return f"{equal}: what they hold, or make of this prompt, is no number."
        able = [line for line in self.conflicts if _can_move(line, tap)]
        # What could not be tried may have been computed.
        blamed = [
            line
            for line in able
            if not self.effects[line.meaning] or "computed" in self.effects[line.meaning]
        ]
        if blamed:
            return f"{equal}, so the configs are to blame: {_listed(blamed)}."
        unknown = [line for line in self.unknown if _can_move(line, tap)]
        fixed = dict.fromkeys(one.text for one in self.fixed if tap.name in one.steps)
        guesses = [f"It may be that {text}." for text in fixed]
        if suspects := [*self.not_computed, *map(_in_words, unknown)]:
            guesses.append(f"It may come of what is not computed here: {_first_of(suspects)}.")
        if guesses:
            return f"{equal}. {' '.join(guesses)}"
        conflicts = [line for line in self.conflicts if line.moves != frozenset()]
        found = (
            f"; the configs conflict in what does not reach this step ({_listed(conflicts)})"
            if conflicts
            else " and no config line conflicts"
        )
        return (
            f"{equal}{found}: a setting that neither file tells, or a mistake in ckptdiff's own "
            "mapping."
        )


def _can_move(line: ConfigDiff, tap: Tap) -> bool:
    return line.moves is None or tap.name in line.moves


def _listed(lines: Sequence[ConfigDiff]) -> str:
    return _first_of([_in_words(line) for line in lines])


def _first_of(words: Sequence[str]) -> str:
    more = [f"{len(words) - _LISTED} more"] if len(words) > _LISTED else []
    return "; ".join([*words[:_LISTED], *more])


def _in_words(line: ConfigDiff) -> str:
    """Return a config line in words."""
    return f"{line.meaning}: {field_text(line, 'A')} in A, {field_text(line, 'B')} in B"


def _and(words: Iterable[str]) -> str:
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last
