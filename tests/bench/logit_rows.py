"""What comparing the logits of a 1B model takes: memory, and time by layer."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from .data import ONE_BILLION
from .harness import REPOSITORY, Result

if TYPE_CHECKING:
    from .data import Data

TOKENS = 32
MORE_MB = 300  # beside the weights of two layers


def row_logits_memory(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Compare a model with its twin on two ranks, in fp32 and then in bf16, once."""
    hf, megatron = data.hf(ONE_BILLION, "base"), data.megatron(ONE_BILLION)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.logit_memory",
            str(hf),
            str(megatron),
            "bf16",
            str(TOKENS),
        ],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"] == "arithmetic", found
    size = ONE_BILLION
    kv = size.groups * size.head_dim
    layer = 4 * (2 * size.hidden * (size.hidden + kv) + 3 * size.hidden * size.ffn)
    seconds = found["seconds"]
    row, bar = "logits-memory", 2 * layer / 1e6 + MORE_MB
    note = f"{found['before'] / 1e6:.0f} MB before the first layer; {TOKENS} tokens"
    times = f"least {min(seconds):.2f} s, most {max(seconds):.2f} s; {len(seconds)} layers"
    return [
        Result(row, "1B, peak anonymous memory, MB", found["peak"] / 1e6, bar, "less", note),
        Result(row, "1B, fp32, a layer, s", statistics.median(seconds), 10, "less", times),
    ]
