"""Compare what two checkpoints compute from one prompt, layer by layer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.comparison.run import diff
from ckptdiff.config.compare import compare_configs, is_computed
from ckptdiff.config.effects import EFFECTS
from ckptdiff.dtypes import BY_FLAG, FLOATS, ITEMSIZE
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import available_cpus
from ckptdiff.logits.sides import (
    check_ids,
    forward_side,
    holdings_of,
    largest_tensor,
    left_out,
    sections,
    stored_dtype,
    token_count,
)
from ckptdiff.results import LogitDiff, LogitProgress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.forward.plan import Energy, ForwardRun, RawTensor, Section, SectionDone, Traced
    from ckptdiff.results import Budget, CauseShare, LogitVerdict, Tap

_NO_ATTRIBUTION: tuple[tuple[CauseShare, ...], Budget | None] = (), None
# The threshold of a tap is the larger of these multiples of the floor and of the dtype's epsilon,
# and at most the third, a multiple of epsilon whatever the floor is.
_FLOOR_FACTOR, _EPSILON_FACTOR = 20, 50
_MAX_EPSILON_FACTOR = 2**13
_FAULT_FACTOR = 100  # times the threshold: a tap above it is no small difference


def compare_logits(
    a: Assembled,
    b: Assembled,
    ids: Sequence[int],
    executor: Executor,
    *,
    device: str = "auto",
    dtype: str = "fp32",
    storage: str | None = None,
    reference: str = "hf",
    attribute: bool = False,
) -> Generator[LogitProgress | LogitDiff, None, None]:
    """Yield a LogitProgress for each layer, and the LogitDiff last.

    The verdict is computed in `dtype`, fp32 or fp64. If it is `arithmetic`, the logits are computed
    in `storage` as well, by default the dtype of A's weights, and metrics are of those. `reference`
    "meta" computes a Hugging Face side as Meta's code does. `attribute` traces the causes of the
    difference. The executor should have one worker, which alone imports torch. Closing the
    generator stops. Raises a CkptDiffError.
    """
    run = _LogitComparison(a, b, tuple(ids), executor, reference)
    yield from run.results(device, dtype, storage, attribute=attribute)


@dataclass(frozen=True, slots=True)
class _Passed:
    """The result of one forward pass of both models."""

    logits: tuple[dict[str, RawTensor], dict[str, RawTensor]]  # of A and B
    taps: tuple[Tap, ...]


class _LogitComparison:
    """One prompt through two models."""

    def __init__(
        self,
        a: Assembled,
        b: Assembled,
        ids: tuple[int, ...],
        executor: Executor,
        reference: str,
    ) -> None:
        self.pair = a, b
        self.ids = ids
        self.executor = executor
        self.vocabulary = token_count(a, b)
        check_ids(ids, self.vocabulary)
        self.sides = forward_side(a, b, reference), forward_side(b, a, reference)
        depths = [len(side.model.layers) for side in self.sides]
        if depths[0] != depths[1]:
            raise UnsupportedLayout(
                f"A has {depths[0]} layers and B {depths[1]}: there is no layer by layer"
            )
        holdings_a, holdings_b = (
            holdings_of(*side) for side in zip(self.pair, self.sides, strict=True)
        )
        self.sections = list(sections(holdings_a, holdings_b))

    def results(
        self, device: str, dtype: str, storage: str | None, *, attribute: bool
    ) -> Generator[LogitProgress | LogitDiff, None, None]:
        needed = 8 * ITEMSIZE[BY_FLAG[dtype]] * max(map(largest_tensor, self.sections))
        device, note = self._job(_choose, device, needed)
        notes = [note] if note else []
        notes += [note for side in self.sides for note in side.model.notes]
        notes += left_out(*self.pair)
        passed = yield from self._pass(dtype, device, "layer by layer", compares=True)
        floor, threshold, verdict, first = judge_taps(passed.taps, dtype)
        if verdict == "arithmetic" and self._not_computed():
            verdict = "undecided"
        notes += list(self._differences_without_effect()) if first is None else []
        storage = storage or stored_dtype(self.sections)
        metrics_in, exact, logits = dtype, None, passed.logits
        if first is None and storage != dtype:
            metrics_in, exact = storage, passed.logits
            in_storage = yield from self._pass(storage, device, f"in {storage}", compares=False)
            logits = in_storage.logits
        shares, rounding_budget = _NO_ATTRIBUTION
        if attribute:
            note = self._why_no_attribution(verdict, storage)
            if not note:
                shares, rounding_budget, note = yield from self._attribute(storage, device, logits)
            notes.append(note)
        metrics, top, ratio = self._job(_measure, logits, exact, self.ids)
        taps = tuple(self._canonical(passed.taps))
        first = None if first is None else taps[passed.taps.index(first)]
        sentence = self._sentence(verdict, first, floor, threshold, taps)
        yield LogitDiff(
            ids=self.ids,
            texts=(),
            device=device,
            dtype=dtype,
            storage=metrics_in,
            verdict=verdict,
            sentence=sentence,
            first=first,
            floor=floor,
            threshold=threshold,
            taps=taps,
            metrics=metrics,
            top=top,
            ratio=ratio,
            attribution=shares,
            budget=rounding_budget,
            notes=tuple(notes),
        )

    def _pass(
        self, dtype: str, device: str, doing: str, *, compares: bool
    ) -> Generator[LogitProgress, None, _Passed]:
        """Compute all sections of both sides; yield a LogitProgress after each."""
        from ckptdiff.forward.plan import ForwardRun

        run = ForwardRun(*self.sides, dtype, device, self.vocabulary, compares)
        a = b = self._start()
        taps: list[Tap] = []
        for number, section in enumerate(self.sections, 1):
            started = time.monotonic()
            done: SectionDone = self._job(_take_section, run, section, a, b)
            a, b = done.a, done.b
            taps += done.taps
            seconds = time.monotonic() - started
            yield LogitProgress(doing, number, len(self.sections), seconds, done.taps)
        return _Passed((a, b), tuple(taps))

    def _start(self) -> dict[str, RawTensor]:
        """Return the values before the first step: the ids, int64 of (positions,)."""
        from ckptdiff.forward.plan import RawTensor

        ids = b"".join(i.to_bytes(8, "little") for i in self.ids)
        return {"ids": RawTensor("int64", (len(self.ids),), ids)}

    def _why_no_attribution(self, verdict: LogitVerdict, storage: str) -> str:
        """Return a note that says why there is no attribution, or nothing."""
        why = ""
        if verdict != "arithmetic":
            why = "the difference is not of arithmetic alone"
        elif storage not in ("bf16", "fp16"):
            why = f"in {storage} the sums inside products round too; ask for bf16 or fp16"
        elif any(layer.routing is not None for side in self.sides for layer in side.model.layers):
            why = "what experts round is not yet traced"
        return why and f"no attribution: {why}"

    def _attribute(
        self, storage: str, device: str, logits: tuple[dict[str, RawTensor], dict[str, RawTensor]]
    ) -> Generator[LogitProgress, None, tuple[tuple[CauseShare, ...], Budget | None, str]]:
        """Trace each kind of rounding through both models; return causes, budget and a note.

        `logits` are those that were computed in the storage dtype.
        """
        from ckptdiff.forward.plan import START, ForwardRun

        run = ForwardRun(*self.sides, storage, device, self.vocabulary, compares=False)
        a = b = {START: self._start()}
        energies: list[Energy] = []
        for number, section in enumerate(self.sections, 1):
            started = time.monotonic()
            low = logits if section.part == "last" else None
            traced: Traced = self._job(_trace_section, run, section, a, b, low)
            a, b = traced.a, traced.b
            energies.append(traced.energy)
            seconds = time.monotonic() - started
            yield LogitProgress("rounding by rounding", number, len(self.sections), seconds)
        shares, rounding, note = self._job(_budget, run, energies[1:-1], energies[-1])
        return shares, rounding, note

    def _job(self, job: Any, *arguments: Any) -> Any:
        future = self.executor.submit(job, *arguments)
        try:
            return future.result()
        finally:
            future.cancel()

    def _not_computed(self) -> list[str]:
        """Return the settings of each side that are not computed, in words."""
        return [
            f"{letter}: {words}"
            for letter, side in zip("AB", self.sides, strict=True)
            for words in side.model.not_computed
        ]

    def _canonical(self, taps: Iterable[Tap]) -> Iterable[Tap]:
        """Yield the taps with the canonical names of A's tensors that they read."""
        names_at: dict[tuple[Path, int], list[str]] = {}  # by file and offset of a stored tensor
        for name, assembly in self.pair[0].tensors.items():
            for start in {(piece.ref.file, piece.ref.offset) for piece in assembly.pieces}:
                names_at.setdefault(start, []).append(name)
        stored: dict[tuple[int | None, str], list[str]] = {}
        for section in self.sections:
            layer = section.number if section.part == "layer" else None
            for held in (held for rank in section.a for held in rank.values()):
                names = stored.setdefault((layer, held.name), [])
                for chunk in held.chunks:
                    names += names_at.get((chunk.ref.file, chunk.ref.offset), ())
        for tap in taps:
            reads = dict.fromkeys(n for name in tap.reads for n in stored[tap.layer, name])
            yield replace(tap, reads=tuple(reads))

    def _sentence(
        self,
        verdict: LogitVerdict,
        first: Tap | None,
        floor: float,
        threshold: float,
        taps: Sequence[Tap],
    ) -> str:
        """Return the verdict in words, with what a comparison of the tensors adds to it."""
        largest = max(tap.rel for tap in taps)
        if verdict == "undecided":
            return (
                f"Not decided: no step is further apart than {largest:.1e}, but "
                f"{'; '.join(self._not_computed())}: what this changes is not computed here."
            )
        if first is None:
            taken = list(dict.fromkeys(one for side in self.sides for one in side.model.taken))
            return (
                f"Only arithmetic for this prompt{_condition(taken)}: no step is further apart "
                f"than {largest:.1e}; A's own weights, computed both ways, are up to {floor:.1e} "
                "apart."
            )
        where = place(first)
        if first.rest is not None and first.judged < first.rel and verdict == "small":
            return f"Small: at {where} the weights were cast, which makes {first.rel:.1e}."
        kind = "Weights or config" if verdict == "weights-or-config" else "Small, but no rounding"
        hint = f" ({first.hint})" if first.hint else ""
        sentence = f"{kind}: {where}, is {first.rel:.2g} apart{hint}. {self._cause(first)}"
        if not first.reads:  # a fault of a config may hide one of the weights
            above = (tap for tap in taps if tap.reads and not tap.judged <= threshold)
            if (other := next(above, None)) and (differing := self._differing(other)):
                sentence += f" Also {place(other)}, is {other.rel:.2g} apart: {differing}"
        return sentence

    def _differences_without_effect(self) -> Iterator[str]:
        """Yield notes of what differs without an effect on this prompt."""
        for conflict in compare_configs(*self.pair):
            if conflict.status == "conflict" and conflict.meaning not in EFFECTS:
                yield f"the configs conflict, without effect on this prompt: {_in_words(conflict)}"

    def _differing(self, tap: Tap) -> str:
        """Return which of the tensors that a tap reads differ, in words, or nothing."""
        a, b = (side.tensors for side in self.pair)
        modules = {name.rpartition(".")[0] for name in tap.reads}
        alone = [n for n in b if n not in a and n.rpartition(".")[0] in modules]
        names = [*(n for n in tap.reads if n in a or n in b), *alone]
        results = list(diff(*self.pair, self.executor, names=names)) if names else []
        differing = [r.name for r in results if r.status not in ("same", "close")]
        if differing:
            shown = sorted(differing)[:3]
            more = [f"{len(differing) - 3} more"] if len(differing) > 3 else []
            return f"{' and '.join([*shown, *more])} {'differ' if differing[1:] else 'differs'}."
        return ""

    def _cause(self, tap: Tap) -> str:
        """Return, in words, which tensors that a tap reads differ, or what else is the cause."""
        if differing := self._differing(tap):
            return differing
        equal = "The tensors that it reads are equal" if tap.reads else "It reads no tensor"
        if "not finite" in tap.hint:
            return f"{equal}: what they hold, or make of this prompt, is no number."
        conflicts = [
            c for c in compare_configs(*self.pair) if c.status == "conflict" and is_computed(c)
        ]
        if conflicts:
            listed = "; ".join(map(_in_words, conflicts[:3]))
            return f"{equal}, so the configs are to blame: {listed}."
        return (
            f"{equal} and no config line conflicts: a setting that neither file tells, "
            "or a mistake in ckptdiff's own mapping."
        )


def _condition(taken: Sequence[str]) -> str:
    """Return what was taken from the other side as a condition, or nothing."""
    return f", if both are run with the same {' and '.join(taken)}" if taken else ""


def _in_words(conflict: ConfigDiff) -> str:
    """Return a config conflict in words, with the fields' names if both have one value."""
    a, b = str(conflict.a), str(conflict.b)
    if a == b:
        a, b = f"{conflict.name_a} {a}", f"{conflict.name_b} {b}"
    return f"{conflict.meaning}: A {a}, B {b}"


def judge_taps(taps: Sequence[Tap], dtype: str) -> tuple[float, float, LogitVerdict, Tap | None]:
    """Return floor, threshold, verdict, and the first tap that is above the threshold.

    All are relative distances |A-B| / |A|. The threshold is 20 times the largest floor, or 50 times
    the dtype's epsilon if that is more, but at most 1e-3 in fp32: a floor above that is a fault.
    """
    floor = max((tap.floor for tap in taps if math.isfinite(tap.floor)), default=0.0)
    epsilon = FLOATS[BY_FLAG[dtype]].epsilon
    threshold = min(
        max(_FLOOR_FACTOR * floor, _EPSILON_FACTOR * epsilon), _MAX_EPSILON_FACTOR * epsilon
    )
    above = [tap for tap in taps if not tap.rel <= threshold]
    if not above:
        return floor, threshold, "arithmetic", None
    faults = [tap for tap in above if not tap.judged <= threshold]
    if any(not tap.judged <= _FAULT_FACTOR * threshold for tap in faults):
        return floor, threshold, "weights-or-config", faults[0]
    return floor, threshold, "small", (faults or above)[0]


def place(tap: Tap) -> str:
    """Return the layer and the name of a tap, in words."""
    return tap.name if tap.layer is None else f"layer {tap.layer}, {tap.name}"


# ── jobs: they run in a worker, and import there what needs torch ────────────────────────────────


def _choose(device: str, needed: int) -> tuple[str, str]:
    from ckptdiff.forward.device import choose

    return choose(device, needed, available_cpus())


def _take_section(
    run: ForwardRun, section: Section, a: dict[str, RawTensor], b: dict[str, RawTensor]
) -> SectionDone:
    from ckptdiff.forward.lockstep import take_section

    return take_section(run, section, a, b)


def _trace_section(*arguments: Any) -> Any:
    from ckptdiff.forward.attribution import trace_section

    return trace_section(*arguments)


def _budget(*arguments: Any) -> Any:
    from ckptdiff.forward.causes import budget

    return budget(*arguments)


def _measure(*arguments: Any) -> Any:
    from ckptdiff.forward.metrics import logit_metrics

    return logit_metrics(*arguments)
