"""Compare scores and tell what that took: `python -m tests.support.score_seconds WHAT A B TASK…`.

`WHAT` is "time", or "memory", which is looked at from a thread of its own. OMP_NUM_THREADS says
how many threads compute.

The answer is a JSON object: seconds of the clock and of the processor that the answers took, and
all with reading tasks and scoring; anonymous bytes before anything is computed and at their peak,
and those resident with the pages of mapped files; the tokens of each batch, and the most times that
a batch read a weight of a layer or of the head.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward.reading import Reader
from ckptdiff.scores import jobs
from ckptdiff.scores.results import ScoreDiff
from ckptdiff.scores.run import compare_scores
from tests.support.logit_memory import STATUS, Watch, anonymous

if TYPE_CHECKING:
    from ckptdiff.forward.holdings import HeldTensor

BATCH_TOKENS = 1024


class Answering:
    """Adds up what the jobs that answer take, and counts what they read."""

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0
        self.batches = self.largest = 0
        self.reads = 0.0
        self._read: Counter[HeldTensor] = Counter()
        self.tokens: list[int] = []

    def install(self) -> None:
        for name in ("begin", "take", "answers"):
            setattr(jobs, name, self._timed(name, getattr(jobs, name)))
        converted = Reader._converted

        def counted(reader: Reader, stored: Any, held: HeldTensor, *rest: Any) -> Any:
            self._read[held] += stored.numel()
            return converted(reader, stored, held, *rest)

        Reader._converted = counted  # type: ignore[method-assign, assignment]

    def _timed(self, name: str, job: Any) -> Any:
        def run(*arguments: Any) -> Any:
            started, used = time.perf_counter(), time.process_time()
            found = job(*arguments)
            self.seconds += time.perf_counter() - started
            self.processor += time.process_time() - used
            if name == "begin":
                self._read.clear()
                self.tokens.append(sum(len(one.ids) // 4 for one in arguments[1]))
            if name == "answers":
                self._note()
            return found

        return run

    def _note(self) -> None:
        """Note how often a batch read what it read most; rows of an embedding are looked up."""
        for held, count in self._read.items():
            if "embed" not in held.name:
                self.reads = max(self.reads, count / prod(held.shape))


def peak_resident() -> int:
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(what: str, a: str, b: str, *tasks: str) -> None:
    sys.stdout.write(json.dumps(measured(what, a, b, *tasks)) + "\n")


def measured(what: str, a: str, b: str, *tasks: str) -> dict[str, Any]:
    torch.ones(64, 64) @ torch.ones(64, 64)
    answering = Answering()
    answering.install()
    pair = assemble_pair(open_checkpoint(Path(a)), open_checkpoint(Path(b)))
    before = anonymous()
    started, used = time.perf_counter(), time.process_time()
    watch = Watch()
    with watch if what == "memory" else nullcontext():
        *_, found = compare_scores(
            *pair, tasks, InlineExecutor(), device="cpu", batch_tokens=BATCH_TOKENS
        )
    assert isinstance(found, ScoreDiff)
    return {
        "verdict": found.verdict,
        "seconds": answering.seconds,
        "processor": answering.processor,
        "all_seconds": time.perf_counter() - started,
        "all_processor": time.process_time() - used,
        "before": before,
        "peak": watch.peak,
        "resident": peak_resident(),
        "tokens": answering.tokens,
        "reads": answering.reads,
        "loglik": [one.a.loglik for item in found.items for one in item.answers],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
