"""Compare what two checkpoints compute from one prompt, layer by layer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.dtypes import BY_FLAG, ITEMSIZE
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import available_cpus
from ckptdiff.forward.sizes import of_models
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
from ckptdiff.logits.verdict import Reasons, judge_taps
from ckptdiff.results import LogitDiff, LogitProgress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.forward.plan import Energy, ForwardRun, RawTensor, Section, SectionDone, Traced
    from ckptdiff.results import Budget, CauseShare, LogitVerdict, Tap

_NO_ATTRIBUTION: tuple[tuple[CauseShare, ...], Budget | None] = (), None


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
        self.ids, self.reference = ids, reference
        self.executor = executor
        self.vocabulary = token_count(a, b)
        check_ids(ids, self.vocabulary)
        self.sides = forward_side(a, b, reference), forward_side(b, a, reference)
        if why := of_models(*(side.model for side in self.sides)):
            raise UnsupportedLayout(
                f"{why}: they cannot be compared step by step. Give two checkpoints of one model, "
                "each with its own config"
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
        taps = tuple(self._canonical(passed.taps))
        judged = judge_taps(taps, dtype)
        reasons = Reasons(self.pair, self.sides, self.reference, self.executor)
        verdict, first = reasons.verdict(judged), judged.first
        notes += list(reasons.without_effect()) if first is None else []
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
        yield LogitDiff(
            ids=self.ids,
            texts=(),
            device=device,
            dtype=dtype,
            storage=metrics_in,
            verdict=verdict,
            sentence=reasons.sentence(verdict, judged, taps),
            conditions=reasons.conditions,
            first=first,
            floor=judged.floor,
            threshold=judged.threshold,
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
        if verdict == "undecided":
            why = "it is not decided whether the difference is of arithmetic alone"
        elif verdict != "arithmetic":
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
