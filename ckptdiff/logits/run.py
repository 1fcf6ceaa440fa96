"""Compare what two checkpoints compute from one prompt, layer by layer."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ckptdiff.config.compare import compare_configs
from ckptdiff.dtypes import BY_FLAG, ITEMSIZE
from ckptdiff.errors import WorkerDied
from ckptdiff.executor import available_cpus
from ckptdiff.extras import load, not_working, require
from ckptdiff.forward.plan import LOGITS_POSITIONS, MOST_LOGITS, MOST_SCORES, ForwardRun
from ckptdiff.logits.sides import (
    canonical_names,
    check_ids,
    forward_side,
    largest_tensor,
    left_out,
    sections_of,
    stored_dtype,
    token_count,
)
from ckptdiff.logits.verdict import Reasons, judge_taps
from ckptdiff.results import LogitDiff, LogitProgress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.forward.plan import Energy, Section
    from ckptdiff.results import Budget, CauseShare, LogitVerdict, Tap

_NO_ATTRIBUTION: tuple[tuple[CauseShare, ...], Budget | None] = (), None


def cuda_devices(executor: Executor) -> tuple[str, ...]:
    """Return the CUDA devices that torch sees in the executor's process; none without torch."""
    return executor.submit(_cuda_devices).result()


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
    config: Sequence[ConfigDiff] | None = None,
) -> Generator[LogitProgress | LogitDiff, None, None]:
    """Yield a LogitProgress for each layer, and the LogitDiff last.

    The verdict is computed in `dtype`, fp32 or fp64. If it is `arithmetic`, the logits are computed
    in `storage` as well, by default the dtype of A's weights, and metrics are of those. `reference`
    "meta" computes a Hugging Face side as Meta's code does. `attribute` traces the causes of the
    difference. `config` are the lines of both configs, which are compared if they are not given.
    The executor should have one worker, which alone imports torch. Closing the generator stops.
    Raises a CkptDiffError.
    """
    require("logits")
    try:
        executor.submit(load, "logits", "torch").result()
    except WorkerDied as error:
        raise not_working("logits", "torch", "ends the process that imports it") from error
    run = _LogitComparison(a, b, tuple(ids), executor, reference, config)
    yield from run.results(device, dtype, storage, attribute=attribute)


def why_no_attribution(verdict: LogitVerdict, storage: str) -> str:
    """Return a note that says why there is no attribution, or nothing."""
    why = ""
    if verdict == "undecided":
        why = "it is not decided whether the difference is of arithmetic alone"
    elif verdict != "arithmetic":
        why = "the difference is not of arithmetic alone"
    elif storage not in ("bf16", "fp16"):
        why = f"in {storage} the sums inside products round too; ask for bf16 or fp16"
    return why and f"no attribution: {why}"


class _LogitComparison:
    """One prompt through two models."""

    def __init__(
        self,
        a: Assembled,
        b: Assembled,
        ids: tuple[int, ...],
        executor: Executor,
        reference: str,
        config: Sequence[ConfigDiff] | None = None,
    ) -> None:
        self.pair = a, b
        self.config = config
        self.ids, self.reference = ids, reference
        self.name = uuid4().hex  # under which the worker keeps the values between jobs
        self.executor = executor
        self.vocabulary = token_count(a, b)
        check_ids(ids, self.vocabulary)
        self.sides = forward_side(a, b, reference), forward_side(b, a, reference)
        self.sections = list(sections_of(self.pair, self.sides))

    def results(
        self, device: str, dtype: str, storage: str | None, *, attribute: bool
    ) -> Generator[LogitProgress | LogitDiff, None, None]:
        device, note = self._job(_choose, device, self._needed(ITEMSIZE[BY_FLAG[dtype]]))
        notes = [note] if note else []
        for model in (side.model for side in self.sides):
            notes += [*model.notes, *(one.text for one in model.fixed)]
        notes += left_out(*self.pair)
        storage = storage or stored_dtype(self.sections)
        # Where the logits are computed in another dtype, B's own values are not asked for; but what
        # its routers choose may be far from what A's do.
        b_alone = storage == dtype or self._has_experts()
        run = self._run(dtype, device, compares=True, b_alone=b_alone)
        stepped = yield from self._pass(run, "layer by layer")
        taps = tuple(self._canonical(stepped))
        judged = judge_taps(taps, dtype)
        lines = compare_configs(*self.pair) if self.config is None else self.config
        reasons = Reasons(self.pair, self.sides, self.reference, self.executor, lines)
        verdict, first = reasons.verdict(judged), judged.first
        notes += list(reasons.without_effect()) if first is None else []
        shown = storage if first is None else dtype
        exact = None
        if shown != dtype or not b_alone:
            exact, run = run if first is None else None, self._run(shown, device, compares=False)
            yield from self._pass(run, f"in {shown}")
        shares, rounding_budget = _NO_ATTRIBUTION
        if attribute:
            note = why_no_attribution(verdict, storage)
            if not note:
                shares, rounding_budget, note = yield from self._attribute(run)
            notes.append(note)
        metrics, top, ratio = self._job(_measure, run, exact, self.sections[-1])
        notes += self._not_everywhere(ratio)
        yield LogitDiff(
            ids=self.ids,
            texts=(),
            device=device,
            dtype=dtype,
            storage=run.dtype,
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
            notes=tuple(dict.fromkeys(notes)),  # both sides may give the same
        )

    def _needed(self, itemsize: int) -> int:
        """Return the most memory of a step, in bytes, if numbers are computed in `itemsize`.

        That is a layer's weights and some positions' attention scores of all heads, or some
        positions' logits and their copies in float64.
        """
        heads = max(side.model.num_attention_heads for side in self.sides)
        weights = 8 * itemsize * max(map(largest_tensor, self.sections))
        row = heads * len(self.ids)
        scores = 4 * max(itemsize, 4) * min(row * len(self.ids), max(MOST_SCORES, 16 * row))
        logits = 4 * (itemsize + 8) * max(MOST_LOGITS, 16 * self.vocabulary)
        return max(weights + scores, logits)

    def _not_everywhere(self, ratio: float | None) -> Iterator[str]:
        """Yield a note that says what is not compared at every position of the prompt."""
        if len(self.ids) > LOGITS_POSITIONS:
            what = "the step logits is" if ratio is None else "the step logits and R are"
            yield (
                f"{what} compared at {LOGITS_POSITIONS} of {len(self.ids):,} positions, spread "
                "from first to last; other steps and metrics at all"
            )

    def _run(self, dtype: str, device: str, *, compares: bool, b_alone: bool = True) -> ForwardRun:
        return ForwardRun(
            *self.sides, dtype, device, self.vocabulary, compares, b_alone, self.ids, self.name
        )

    def _has_experts(self) -> bool:
        return any(layer.routing is not None for side in self.sides for layer in side.model.layers)

    def _pass(self, run: ForwardRun, doing: str) -> Generator[LogitProgress, None, tuple[Tap, ...]]:
        """Compute all sections of both sides; yield a LogitProgress after each, return the taps."""
        taps: list[Tap] = []
        for number, section in enumerate(self.sections, 1):
            started = time.monotonic()
            done: tuple[Tap, ...] = self._job(_take_section, run, section)
            taps += done
            seconds = time.monotonic() - started
            yield LogitProgress(doing, number, len(self.sections), seconds, done)
        return tuple(taps)

    def _attribute(
        self, run: ForwardRun
    ) -> Generator[LogitProgress, None, tuple[tuple[CauseShare, ...], Budget | None, str]]:
        """Trace each kind of rounding through both models; return causes, budget and a note.

        `run` is the pass in the storage dtype.
        """
        energies: list[Energy] = []
        for number, section in enumerate(self.sections, 1):
            started = time.monotonic()
            energies.append(self._job(_trace_section, run, section))
            if stopped := energies[-1].stopped:
                return *_NO_ATTRIBUTION, f"no attribution: {stopped}"
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
        names = canonical_names(self.pair[0], self.sections)
        for tap in taps:
            reads = dict.fromkeys(n for name in tap.reads for n in names[tap.layer, name])
            yield replace(tap, reads=tuple(reads))


# ── jobs: they run in a worker, and import there what needs torch ────────────────────────────────


def _cuda_devices() -> tuple[str, ...]:
    try:
        from ckptdiff.forward.device import cuda_devices
    except ImportError:
        return ()
    return cuda_devices()


def _choose(device: str, needed: int) -> tuple[str, str]:
    from ckptdiff.forward.device import choose

    return choose(device, needed, available_cpus())


def _take_section(run: ForwardRun, section: Section) -> tuple[Tap, ...]:
    from ckptdiff.forward.lockstep import take_section

    return take_section(run, section)


def _trace_section(*arguments: Any) -> Any:
    from ckptdiff.forward.attribution import trace_section

    return trace_section(*arguments)


def _budget(*arguments: Any) -> Any:
    from ckptdiff.forward.causes import budget

    return budget(*arguments)


def _measure(*arguments: Any) -> Any:
    from ckptdiff.forward.metrics import logit_metrics

    return logit_metrics(*arguments)
