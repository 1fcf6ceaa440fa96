"""Compare logits and tell the seconds, of the clock and of the processors.

`python -m tests.support.logit_seconds A B TOKENS`.

The answer is a JSON object. What starting torch and opening the files take is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.run import compare_logits
from ckptdiff.results import LogitDiff


def main(a: str, b: str, count: str) -> None:
    torch.ones(64, 64) @ torch.ones(64, 64)
    pair = assemble_pair(open_checkpoint(Path(a)), open_checkpoint(Path(b)))
    ids = range(1, int(count) + 1)
    started, used = time.perf_counter(), time.process_time()
    *_, found = compare_logits(*pair, ids, InlineExecutor(), device="cpu")
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    assert isinstance(found, LogitDiff)
    answer = {"verdict": found.verdict, "seconds": seconds, "processor": processor}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
