"""Run the diagnosis, and number its findings for the screen."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.messages import DiagnosisEnded
from ckptdiff.tui.model.diagnosis import Diagnosis
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.cancellable import Stopped
from ckptdiff.tui.workers.read_compare import without_blocking_the_screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.message import Message

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding, TensorDiff
    from ckptdiff.tui.model.inventory import Inventory
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine

MOST_MARKS = 9  # findings whose mark is their number
SEVERAL = "+"  # the mark of several findings, or of a later one


def look_for_causes(
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
    known: Sequence[Finding] = (),
) -> None:
    """Diagnose the differences of a complete comparison; `known` are findings that it had."""
    try:
        with without_blocking_the_screen():
            found = list(known)
            for finding in engine.diagnose(a, b, results, config, executor):
                if executor.is_cancelled:
                    raise Stopped
                found.append(finding)
            diagnosis = diagnosis_of(found, inventory, b)
    except (Stopped, CancelledError):
        post(DiagnosisEnded(run, "stopped"))
    except CkptDiffError as error:
        post(DiagnosisEnded(run, "failed", error=error.with_hint(KEYS)))
    else:
        post(DiagnosisEnded(run, "done", diagnosis))


def diagnosis_of(found: Sequence[Finding], inventory: Inventory, b: Assembled) -> Diagnosis:
    """Return the findings, faults first, with their marks and their targets."""
    from ckptdiff.diagnosis.run import mended_target

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
        number: mended_target(b, *([finding.undo] if finding.undo is not None else []))
        for number, finding in enumerate(findings, 1)
        if finding.is_converted_away
    }
    return Diagnosis(findings, marks, targets)


def _mark(numbers: set[int]) -> str:
    first = min(numbers)
    return str(first) if len(numbers) == 1 and first <= MOST_MARKS else SEVERAL
