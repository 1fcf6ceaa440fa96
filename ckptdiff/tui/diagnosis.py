"""Looking for the causes of differences, in a thread, and what came out of it."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.jobs import Stopped, out_of_the_way
from ckptdiff.tui.messages import DiagnosisEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from textual.message import Message

    from ckptdiff.assemble import Assembled
    from ckptdiff.config_diff import ConfigDiff
    from ckptdiff.conversion import Target
    from ckptdiff.results import Finding, TensorDiff
    from ckptdiff.tui.engine import Engine
    from ckptdiff.tui.inventory import Inventory

State = Literal["none", "looking", "done", "stopped", "failed"]
MOST_MARKS = 9  # findings that a digit can stand for
SEVERAL = "+"  # more than one finding, or one beyond them


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, faults first, and which rows of the list they mark."""

    findings: tuple[Finding, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)  # by tensor and by title of a layer
    # By the number of a finding: what B is written as once more, without it.
    targets: Mapping[int, Target] = field(default_factory=dict)

    def of(self, name: str) -> list[tuple[int, Finding]]:
        """Return the faults that cover a tensor, with their numbers."""
        return [
            (number, finding)
            for number, finding in enumerate(self.findings, 1)
            if finding.severity == "fault" and name in finding.tensors
        ]


class Cancellable(Executor):
    """A pool's jobs, all of which can be given up at once, from another thread."""

    def __init__(self, pool: Callable[[], Executor]) -> None:
        self._pool = pool
        self._futures: list[Future[Any]] = []
        self.is_cancelled = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.is_cancelled:
            raise Stopped
        future = self._pool().submit(fn, *args, **kwargs)
        self._futures = [each for each in self._futures if not each.done()]
        self._futures.append(future)
        if self.is_cancelled:
            future.cancel()
        return future

    def cancel(self) -> None:
        """Have whoever waits for a job, or submits another, stop waiting."""
        self.is_cancelled = True
        for future in list(self._futures):
            future.cancel()


def look(
    run: int,
    engine: Engine,
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    config: Sequence[ConfigDiff],
    *,
    inventory: Inventory,
    executor: Cancellable,
    post: Callable[[Message], object],
) -> None:
    """Look for what explains the differences of a comparison that is complete."""
    try:
        with out_of_the_way():
            found = []
            for finding in engine.diagnose(a, b, results, config, executor):
                if executor.is_cancelled:
                    raise Stopped
                found.append(finding)
            diagnosis = diagnosis_of(found, inventory, b)
    except (Stopped, CancelledError):
        post(DiagnosisEnded(run, "stopped"))
    except CkptDiffError as error:
        post(DiagnosisEnded(run, "failed", error=str(error)))
    else:
        post(DiagnosisEnded(run, "done", diagnosis))


def diagnosis_of(found: Sequence[Finding], inventory: Inventory, b: Assembled) -> Diagnosis:
    """Return findings in the order in which they are shown, and the marks of the list."""
    from ckptdiff.diagnose import mended_target

    findings = tuple(sorted(found, key=lambda each: each.severity != "fault"))
    numbers: dict[str, set[int]] = defaultdict(set)
    for number, finding in enumerate(findings, 1):
        if finding.severity == "fault":
            for name in finding.tensors:
                numbers[name].add(number)
                layer = inventory.layer_of.get(name)
                if layer is not None and layer.title:
                    numbers[layer.title].add(number)
    marks = {name: _mark(covered) for name, covered in numbers.items()}
    targets = {
        number: mended_target(b, finding.undo)
        for number, finding in enumerate(findings, 1)
        if finding.undo is not None
    }
    return Diagnosis(findings, marks, targets)


def _mark(numbers: set[int]) -> str:
    first = min(numbers)
    return str(first) if len(numbers) == 1 and first <= MOST_MARKS else SEVERAL
