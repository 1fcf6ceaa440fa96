"""Compare what two checkpoints compute of one prompt, layer by layer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.comparison.run import diff
from ckptdiff.config.compare import compare_configs
from ckptdiff.dtypes import BY_FLAG, FLOATS, ITEMSIZE
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import available_cpus
from ckptdiff.logits.sides import (
    check_ids,
    forward_side,
    holdings_of,
    largest_tensor,
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

_NO_SHARES: tuple[tuple[CauseShare, ...], Budget | None] = (), None
_FLOORS, _EPSILONS = 20, 50  # what a step may be apart: of the floor, of the dtype's epsilon
_MOST_EPSILONS = 2**13  # whatever the floor
_FAULT = 100  # times the threshold: above, it is no matter of small numbers


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

    The verdict is taken in `dtype`, fp32 or fp64; where it is `arithmetic` the logits are compared
    in `storage` as well, by default the dtype of A's weights. `reference` "meta" computes a Hugging
    Face side as Meta's code does. The executor should have one worker: it alone imports torch.
    Closing the generator stops. Raises a CkptDiffError.
    """
    run = _LogitComparison(a, b, tuple(ids), executor, reference)
    yield from run.results(device, dtype, storage, attribute=attribute)


@dataclass(frozen=True, slots=True)
class _Passed:
    """What a pass through both models leaves."""

    logits: tuple[dict[str, RawTensor], dict[str, RawTensor]]
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
        one, other = (holdings_of(*both) for both in zip(self.pair, self.sides, strict=True))
        self.sections = list(sections(one, other))

    def results(
        self, device: str, dtype: str, storage: str | None, *, attribute: bool
    ) -> Generator[LogitProgress | LogitDiff, None, None]:
        needed = 8 * ITEMSIZE[BY_FLAG[dtype]] * max(map(largest_tensor, self.sections))
        device, note = self._job(_choose, device, needed)
        notes = [note] if note else []
        notes += [note for side in self.sides for note in side.model.notes]
        passed = yield from self._pass(dtype, device, "layer by layer", compares=True)
        floor, threshold, verdict, first = judge_taps(passed.taps, dtype)
        notes += list(self._unseen()) if verdict == "arithmetic" else []
        storage = storage or stored_dtype(self.sections)
        metrics_in, exact, logits = dtype, None, passed.logits
        if verdict == "arithmetic" and storage != dtype:
            metrics_in, exact = storage, passed.logits
            low = yield from self._pass(storage, device, f"in {storage}", compares=False)
            logits = low.logits
        shares, rounding = _NO_SHARES
        if attribute:
            note = self._no_attribution(verdict, storage)
            if not note:
                shares, rounding, note = yield from self._attribute(storage, device, logits)
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
            budget=rounding,
            notes=tuple(notes),
        )

    def _pass(
        self, dtype: str, device: str, doing: str, *, compares: bool
    ) -> Generator[LogitProgress, None, _Passed]:
        """Take both sides through all sections."""
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
        from ckptdiff.forward.plan import RawTensor

        ids = b"".join(i.to_bytes(8, "little") for i in self.ids)
        return {"ids": RawTensor("int64", (len(self.ids),), ids)}

    def _no_attribution(self, verdict: LogitVerdict, storage: str) -> str:
        """Say why roundings are not told apart, or nothing."""
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
        """Trace each kind of rounding through both models; `logits` are in the storage dtype."""
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

    def _canonical(self, taps: Iterable[Tap]) -> Iterable[Tap]:
        """Say what each tap reads by the names that A's tensors have unsharded."""
        at: dict[tuple[Path, int], list[str]] = {}  # by where a stored tensor starts
        for name, assembly in self.pair[0].tensors.items():
            for start in {(piece.ref.file, piece.ref.offset) for piece in assembly.pieces}:
                at.setdefault(start, []).append(name)
        stored: dict[tuple[int | None, str], list[str]] = {}
        for section in self.sections:
            layer = section.number if section.part == "layer" else None
            for held in (held for rank in section.a for held in rank.values()):
                names = stored.setdefault((layer, held.name), [])
                for chunk in held.chunks:
                    names += at.get((chunk.ref.file, chunk.ref.offset), ())
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
        """Return the verdict in words, held against the tensors themselves."""
        largest = max(tap.rel for tap in taps)
        if first is None:
            return (
                f"Only arithmetic for this prompt: no step is further apart than {largest:.1e}; "
                "A's own weights, "
                f"computed both ways, are up to {floor:.1e} apart."
            )
        where = place(first)
        if first.rest is not None and first.judged < first.rel and verdict == "small":
            return f"Small: at {where} the weights were cast, which makes {first.rel:.1e}."
        words = "Weights or config" if verdict == "weights-or-config" else "Small, but no rounding"
        hint = f" ({first.hint})" if first.hint else ""
        told = f"{words}: {where}, is {first.rel:.2g} apart{hint}. {self._cause(first)}"
        if not first.reads:  # what follows from a config may hide a fault of the weights
            above = (tap for tap in taps if tap.reads and not tap.judged <= threshold)
            if (other := next(above, None)) and (differing := self._differing(other)):
                told += f" Also {place(other)}, is {other.rel:.2g} apart: {differing}"
        return told

    def _unseen(self) -> Iterator[str]:
        """Yield what differs all the same, and did not matter to this prompt."""
        for conflict in compare_configs(*self.pair):
            if conflict.status == "conflict":
                yield f"the configs conflict, without effect on this prompt: {_told(conflict)}"
        rows = [token_count(side, side) for side in self.pair]
        if rows[0] != rows[1]:
            yield f"A has {rows[0]} tokens and B {rows[1]}: those that both have are compared"

    def _differing(self, tap: Tap) -> str:
        """Say which of the tensors that a tap reads differ, if any."""
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
        """Say whether the tensors that a tap reads differ; if not, what else is to blame."""
        if differing := self._differing(tap):
            return differing
        equal = "The tensors that it reads are equal" if tap.reads else "It reads no tensor"
        if "not finite" in tap.hint:
            return f"{equal}: what they hold, or make of this prompt, is no number."
        conflicts = [c for c in compare_configs(*self.pair) if c.status == "conflict"]
        if conflicts:
            told = "; ".join(map(_told, conflicts[:3]))
            return f"{equal}, so the configs are to blame: {told}."
        return (
            f"{equal} and no config line conflicts: a setting that neither file tells, "
            "or a mistake in ckptdiff's own mapping."
        )


def _told(conflict: ConfigDiff) -> str:
    """Return a conflict in words; the names too where one value means one thing in each file."""
    a, b = str(conflict.a), str(conflict.b)
    if a == b:
        a, b = f"{conflict.name_a} {a}", f"{conflict.name_b} {b}"
    return f"{conflict.meaning}: A {a}, B {b}"


def judge_taps(taps: Sequence[Tap], dtype: str) -> tuple[float, float, LogitVerdict, Tap | None]:
    """Return floor, threshold, verdict, and the first tap that is above the threshold.

    The threshold is 20 times the largest floor, or 50 times the dtype's epsilon if that is more;
    but never above 1e-3 in fp32: a floor that high is no arithmetic.
    """
    floor = max((tap.floor for tap in taps if math.isfinite(tap.floor)), default=0.0)
    epsilon = FLOATS[BY_FLAG[dtype]].epsilon
    threshold = min(max(_FLOORS * floor, _EPSILONS * epsilon), _MOST_EPSILONS * epsilon)
    above = [tap for tap in taps if not tap.rel <= threshold]
    if not above:
        return floor, threshold, "arithmetic", None
    faults = [tap for tap in above if not tap.judged <= threshold]
    if any(not tap.judged <= _FAULT * threshold for tap in faults):
        return floor, threshold, "weights-or-config", faults[0]
    return floor, threshold, "small", (faults or above)[0]


def place(tap: Tap) -> str:
    """Return where a tap is, in words."""
    return tap.name if tap.layer is None else f"layer {tap.layer}, {tap.name}"


# ── jobs: they run in a worker, so what they need is imported there ──────────────────────────────


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
