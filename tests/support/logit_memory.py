"""Compare logits and tell what memory that took.

`python -m tests.support.logit_memory A B DTYPE TOKENS`.

The answer is a JSON object: anonymous bytes before the first layer and at their peak, and the
seconds of each layer. Pages of mapped files are not anonymous: the system takes them back at will.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.run import compare_logits
from ckptdiff.results import LogitDiff, LogitProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = Path("/proc/self/status")


def anonymous() -> int:
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


class Watch:
    """Looks at the memory all the time, from a thread of its own."""

    def __init__(self) -> None:
        self.peak = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.001):
            self.peak = max(self.peak, anonymous())


def layers(a: Path, b: Path, dtype: str, count: int) -> Iterator[tuple[str, int, float]]:
    """Yield what is done, its number and the seconds of each step; the verdict last."""
    pair = assemble_pair(open_checkpoint(a), open_checkpoint(b))
    ids = range(1, count + 1)
    for found in compare_logits(*pair, ids, InlineExecutor(), device="cpu", storage=dtype):
        if isinstance(found, LogitProgress):
            yield found.doing, found.done, found.seconds
        else:
            assert isinstance(found, LogitDiff)
            yield found.verdict, 0, 0.0


def main(a: str, b: str, dtype: str, count: str) -> None:
    import torch  # what it takes itself is no layer's

    torch.ones(64, 64) @ torch.ones(64, 64)
    before = anonymous()
    with Watch() as watch:
        *steps, (verdict, _, _) = layers(Path(a), Path(b), dtype, int(count))
    seconds = [taken for doing, _, taken in steps if doing == "layer by layer"]
    found = {"verdict": verdict, "before": before, "peak": watch.peak, "seconds": seconds[1:-1]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
