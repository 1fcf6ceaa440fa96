"""How quick this machine is now: what tests hold the time of other work against."""

from __future__ import annotations

import json
import time


def a_piece_of_work() -> int:
    made = {f"layers.{n}": {"shape": [n, n + 1], "offsets": [n, 64 * n]} for n in range(1000)}
    read = json.loads(json.dumps(made))
    return sum(entry["offsets"][1] // entry["shape"][1] for entry in read.values())


def pace() -> float:
    """Return the processor seconds of a piece of Python work, the best of ten: some 1.5 ms."""
    taken = []
    for _ in range(10):
        before = time.thread_time()
        a_piece_of_work()
        taken.append(time.thread_time() - before)
    return min(taken)
