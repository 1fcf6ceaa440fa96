"""Compare logits and tell the seconds of it: `python -m tests.support.logit_seconds A B TOKENS`.

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
    started = time.perf_counter()
    *_, found = compare_logits(*pair, ids, InlineExecutor(), device="cpu")
    seconds = time.perf_counter() - started
    assert isinstance(found, LogitDiff)
    sys.stdout.write(json.dumps({"verdict": found.verdict, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
