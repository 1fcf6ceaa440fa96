"""Compare two assembled checkpoints, tensor by tensor, in worker processes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.order import in_model_order
from ckptdiff.comparison.packed import NOT_JUDGED, is_as_near_as_codes, packed_result
from ckptdiff.comparison.parts import BATCH_PARTS, PART_BYTES, Outcome, plan_diff, run_parts
from ckptdiff.comparison.verdict import (
    CAST,
    Tolerance,
    judge_tensor,
    numbers,
)
from ckptdiff.dtypes import FLOATS, has_numbers
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import JobsUnderWay
from ckptdiff.formats.stamps import Unchanged
from ckptdiff.results import TensorDiff

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable
    from concurrent.futures import Executor, Future

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.comparison.parts import DiffPart, DiffPlan
    from ckptdiff.kernels.stats import Stats
    from ckptdiff.results import Status

    _Item = tuple[str, int, DiffPart]  # name of a tensor, index of its part, the part
    _Batch = list[_Item]


def pair_names(a: Assembled, b: Assembled) -> list[str]:
    """Return every canonical name of either side, in model order."""
    names = {**a.tensors, **b.tensors, **a.errors, **b.errors}
    return in_model_order(names, a.architecture or b.architecture)


def diff(
    a: Assembled,
    b: Assembled,
    executor: Executor,
    *,
    tolerance: Tolerance = CAST,
    names: Collection[str] | None = None,
    first: Callable[[], Iterable[str]] | None = None,
) -> Generator[TensorDiff, None, None]:
    """Yield one TensorDiff per canonical name, in completion order.

    Tensors are read in the order of A's files. `first` is called before each is chosen: names that
    it returns come before all others. Closing the generator cancels what has not started. An error
    of one tensor is its result, not an exception.
    """
    return _Comparison(a, b, executor, tolerance, first).results(names)


@dataclass(slots=True)
class _TensorUnderWay:
    """A tensor some of whose parts have no outcome yet."""

    a: Assembly
    b: Assembly
    plan: DiffPlan
    outcomes: list[Outcome | None] = field(default_factory=list)
    open: int = 0  # parts without an outcome


class _Comparison:
    """The state of one comparison: names to do, parts to submit, tensors under way."""

    def __init__(
        self,
        a: Assembled,
        b: Assembled,
        executor: Executor,
        tolerance: Tolerance,
        first: Callable[[], Iterable[str]] | None,
    ) -> None:
        self.a = a
        self.b = b
        self.codes = {part for weight in a.packed.values() for part in weight.parts}
        self.tolerance = tolerance
        self.first = first
        self.jobs: JobsUnderWay[_Batch] = JobsUnderWay(executor)
        self.unchanged = Unchanged(a.checkpoint, b.checkpoint)
        self.todo: dict[str, None] = {}
        self.parts: deque[_Item] = deque()
        self.tasks: dict[str, _TensorUnderWay] = {}

    def results(self, names: Collection[str] | None) -> Generator[TensorDiff, None, None]:
        wanted = pair_names(self.a, self.b) if names is None else names
        self.todo = dict.fromkeys(sorted(wanted, key=self._place))
        yield from self.jobs.results(self._submit, self._receive)

    def _place(self, name: str) -> tuple[str, int]:
        """Return file and offset of a tensor in A, or else in B: files are read front to back."""
        assembly = self.a.tensors.get(name) or self.b.tensors.get(name)
        if assembly is None or not assembly.pieces:
            return "", 0
        return str(assembly.pieces[0].ref.file), assembly.pieces[0].ref.offset

    def _submit(self) -> Generator[TensorDiff, None, None]:
        """Submit parts as long as there is room; yield the results that need no work."""
        while self.jobs.has_room:
            batch: _Batch = []
            size = 0
            while size < PART_BYTES and len(batch) < BATCH_PARTS:
                while not self.parts and self.todo:
                    yield from self._start(self._next())
                if not self.parts:
                    break
                batch.append(self.parts.popleft())
                size += batch[-1][2].nbytes // 2
            if not batch:
                return
            try:
                self.jobs.submit(batch, run_parts, tuple(part for _, _, part in batch))
            except RuntimeError:  # the pool was shut down: the program is ending
                return

    def _next(self) -> str:
        """Remove and return the next name to do."""
        for name in self.first() if self.first is not None else ():
            if name in self.todo:
                del self.todo[name]
                return name
        name = next(iter(self.todo))
        del self.todo[name]
        return name

    def _start(self, name: str) -> Generator[TensorDiff, None, None]:
        """Plan a tensor's parts, or yield its result if nothing has to be read."""
        a, b = self.a.tensors.get(name), self.b.tensors.get(name)
        described = _describe(name, a, b)
        errors_of_sides = [
            f"{side}: {errors[name].text}"
            for side, errors in (("A", self.a.errors), ("B", self.b.errors))
            if name in errors and errors[name].kind != "packed"
        ]
        if errors_of_sides:
            yield replace(described, status="error", error="; ".join(errors_of_sides))
        elif name in self.a.errors or name in self.b.errors:
            yield packed_result(described, self.a, self.b)
        elif a is None or b is None:
            yield replace(described, status="only_b" if a is None else "only_a")
        elif a.shape != b.shape:
            yield replace(described, status="shape", note=_shape_note(a, b))
        elif a.dtype != b.dtype and not (has_numbers(a.dtype) and has_numbers(b.dtype)):
            yield replace(described, status="packed", note=_unlike_note(a.dtype, b.dtype))
        elif a.is_blob and a.nbytes != b.nbytes:
            note = f"{a.dtype} is compared byte by byte: A has {a.nbytes} bytes, B {b.nbytes}"
            yield replace(described, status="differ", note=note)
        else:
            try:
                planned = plan_diff(a, b)
            except CkptDiffError as error:
                yield replace(described, status="error", error=str(error))
                return
            count = len(planned.parts)
            self.tasks[name] = _TensorUnderWay(a, b, planned, [None] * count, count)
            self.parts.extend((name, i, part) for i, part in enumerate(planned.parts))

    def _receive(
        self, batch: _Batch, future: Future[list[Outcome]]
    ) -> Generator[TensorDiff, None, None]:
        """Take the outcomes of a job; yield the results of tensors that are complete with them."""
        if future.cancelled():  # the pool was shut down: the program is ending
            return
        error = future.exception()
        if error is not None and not isinstance(error, CkptDiffError):
            raise error
        if error is not None and len(batch) > 1:
            # One part of the job killed the worker. Alone, each part fails or succeeds by itself.
            for item in batch:
                self.jobs.submit([item], run_parts, (item[2],))
            return
        files = [part.files() for _, _, part in batch]
        changed = self.unchanged.trouble(set().union(*files))
        for position, (name, index, _) in enumerate(batch):
            task = self.tasks[name]
            if error is not None:
                outcome = Outcome(error=f"{_listed(files[position])}: {error}")
            else:
                outcome = future.result()[position]
            if trouble := [changed[file] for file in sorted(files[position] & changed.keys())]:
                outcome = Outcome(error="; ".join(trouble))
            task.outcomes[index] = outcome
            task.open -= 1
            if task.open == 0 and not self._wants_norms(name, task):
                yield self._finish(name, self.tasks.pop(name))

    def _wants_norms(self, name: str, task: _TensorUnderWay) -> bool:
        """Submit parts again for their norms, if they are equal but another part differs.

        Return whether there are such parts.
        """
        stats = [outcome.stats for outcome in task.outcomes if outcome and outcome.stats]
        if len(stats) < len(task.outcomes) or not any(s.differing for s in stats):
            return False
        for index, part in enumerate(task.plan.parts):
            if not stats[index].normed and not part.norms:
                task.open += 1
                self.parts.appendleft((name, index, replace(part, norms=True)))
        return task.open > 0

    def _finish(self, name: str, task: _TensorUnderWay) -> TensorDiff:
        result = replace(_describe(name, task.a, task.b), nbytes=task.plan.nbytes)
        outcomes = [outcome for outcome in task.outcomes if outcome is not None]
        errors = dict.fromkeys(outcome.error for outcome in outcomes if outcome.error)
        if errors:
            return replace(result, status="error", error="; ".join(filter(None, errors)))
        notes = []
        for side, holds in zip(task.plan.padding_sides, outcomes[-1].paddings, strict=True):
            rows = (task.a if side == "A" else task.b).padding_rows
            notes.append(f"{rows} padding row{'' if rows == 1 else 's'} in {side}: {holds}")
        (merged, *others) = [outcome.stats for outcome in outcomes if outcome.stats is not None]
        drifted = _drifted(task.plan, [outcome.stats for outcome in outcomes])
        for other in others:
            merged.merge(other)
        if not has_numbers(task.a.dtype):
            return replace(result, **_by_bits(task.a, merged, drifted))
        alike = (task.a.dtype, task.a.is_scaled) == (task.b.dtype, task.b.is_scaled)
        merges = task.a.is_added_to
        status, why = judge_tensor(merged, alike, self.tolerance, merges=merges)
        notes += _dequantised(task.a, task.b)
        notes += [assembly.note for assembly in (task.a, task.b) if assembly.note]
        figures = numbers(merged, task.a.shape)
        if status == "differ" and is_as_near_as_codes(figures.rel_l2, name, self.a, self.b):
            notes.append(NOT_JUDGED)
        if drifted:
            status, why = "differ", None
        elif status in ("same", "close") and (task.a.by_content or task.b.by_content):
            status = "matched"
        if status != "same" and name in self.codes and task.a.dtype not in FLOATS:
            notes.append("its figures are of packed codes, not of weights")
        return replace(
            result,
            status=status,
            why=why,
            note="; ".join([*drifted, *notes]) or None,
            numbers=figures,
        )


def _listed(files: Collection[str]) -> str:
    """Return some files in words, sorted."""
    first, *others = sorted(files) or ["no file"]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return ", ".join([first, *others[:1]]) + more


def _describe(name: str, a: Assembly | None, b: Assembly | None) -> TensorDiff:
    """Return a result with dtypes and shapes only; the status has yet to be set."""
    return TensorDiff(
        name,
        "error",
        dtype_a=a.dtype if a else None,
        dtype_b=b.dtype if b else None,
        shape_a=a.shape if a else None,
        shape_b=b.shape if b else None,
        padding_rows=max((x.padding_rows for x in (a, b) if x), default=0),
    )


def _unlike_note(dtype_a: str, dtype_b: str) -> str:
    """Return why two tensors were not compared, where a dtype has numbers that are not computed."""
    return (
        f"{dtype_a} in A and {dtype_b} in B: bytes of different dtypes without numbers are not "
        "compared"
    )


def _by_bits(tensor: Assembly, stats: Stats, drifted: list[str]) -> dict[str, Any]:
    """Return the fields of the result for a dtype whose numbers are not computed."""
    unit = "bytes" if tensor.is_blob else "elements"
    notes = list(drifted)
    if stats.differing:
        notes.append(
            f"{stats.differing} of {stats.numel} {unit} differ; the numbers of {tensor.dtype} are "
            "not computed"
        )
    status: Status = "differ" if notes else "same"
    return {"status": status, "note": "; ".join(notes) or None}


def _shape_note(a: Assembly, b: Assembly) -> str | None:
    """Return how many rows one side has more, if the shapes differ in the number of rows alone."""
    if a.shape[1:] != b.shape[1:] or not a.shape or not b.shape:
        return None
    more, having = a.shape[0] - b.shape[0], "A"
    if more < 0:
        more, having = -more, "B"
    return f"{having} has {more} row{'' if more == 1 else 's'} more: values were not compared"


def _dequantised(a: Assembly, b: Assembly) -> list[str]:
    """Return a note for a side that was multiplied by its block factors to be compared."""
    notes = []
    for side, assembly, other in (("A", a, b), ("B", b, a)):
        scale = assembly.pieces[0].ref.scale if assembly.pieces else None
        if scale is not None and scale.words and not other.is_scaled:
            notes.append(
                f"{side} is packed as {scale.words}: multiplied out in float32, then rounded"
            )
        elif scale is not None and not other.is_scaled:
            rows, columns = scale.block
            notes.append(
                f"{side} is {assembly.dtype} with a factor for each {rows}x{columns} block: "
                "multiplied in float32, then rounded"
            )
    return notes


def _drifted(planned: DiffPlan, stats: list[object]) -> list[str]:
    """Return a note for every copy that differs from the piece that was compared."""
    notes = []
    for replicas, part_stats in zip(planned.replicas, stats, strict=True):
        for index, count in getattr(part_stats, "copies_differ", ()):
            replica = replicas[index]
            original, copy = replica.piece.ref, replica.copy.ref
            elements = f"{count} element{'' if count == 1 else 's'}"
            if replica.side == "scales":
                notes.append(f"{count} of the block factors differ ({copy.name})")
                continue
            where, what = copy.name, original.name
            if copy.file.parent != original.file.parent:
                where = f"{copy.file.parent.name} {where}"
                what = f"{original.file.parent.name} {what}"
            elif copy.name == original.name:
                where, what = f"{copy.file.name} {where}", f"{original.file.name} {what}"
            else:  # two tensors of one checkpoint that share their values
                notes.append(f"{where} of {replica.side} differs from {what} in {elements}")
                continue
            notes.append(
                f"replica drift in {replica.side}: {where} differs from {what} in {elements}"
            )
    return notes
