"""The rows 671b-list and 671b-frame: a pair in the shape of DeepSeek-V3, opened and shown."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from .harness import CKPTDIFF, REPOSITORY, Result
from .screen import watch_screen

if TYPE_CHECKING:
    from .data import Data

MAX_MB = 600
LIST = """
import sys, time, json
from pathlib import Path
start = time.perf_counter()
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import pair_names
from ckptdiff.formats import open_checkpoint
a, b = (open_checkpoint(Path(path)) for path in sys.argv[1:3])
opened = time.perf_counter()
a, b = assemble_pair(a, b)
names = pair_names(a, b)
end = time.perf_counter()
assert len(names) == len(a.tensors) == len(b.tensors) > 46000, (len(names), len(b.tensors))
assert not a.errors and not b.errors and not b.unmapped
assert "torch" not in sys.modules and "numpy" not in sys.modules
peak = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmHWM:"))
print(json.dumps([opened - start, end - start, peak * 1024, time.process_time()]))
"""
EMPTY = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self):
        yield Static("nothing here")
Empty().run()
"""


def row_671b_list(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Open, map and list both sides without a screen."""
    a, b = data.giant("hf"), data.giant("megatron")
    command = [sys.executable, "-c", LIST, str(a), str(b)]
    found = []
    for _ in range(rounds + 1):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
        found.append(json.loads(done.stdout))
    opened, listed, peaks, cpu = zip(*found[1:], strict=True)
    note = (
        f"opened in {statistics.median(opened):.2f} s; least {min(listed):.2f} s; "
        f"processor {statistics.median(cpu):.2f} s"
    )
    return [
        Result("671b-list", "open, map, list, s", statistics.median(listed), 5, "less", note),
        Result("671b-list", "peak RSS of that, MB", max(peaks) / 1e6, MAX_MB, "less"),
    ]


def row_671b_frame(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time the first frame with names on it, and the one that says how many there are."""
    a, b = data.giant("hf"), data.giant("megatron")
    empty, named, listed, peaks = [], [], [], []
    for turn in range(rounds + 1):
        nothing = watch_screen([sys.executable, "-c", EMPTY], b"nothing here")
        seen = watch_screen([*CKPTDIFF, str(a), str(b)], b"embed_tokens", rb"of 46,\d+ compared")
        assert "numpy" not in seen.mapped
        assert "torch" not in seen.mapped
        if turn:
            empty.append(nothing.seconds[0])
            named.append(seen.seconds[0])
            listed.append(seen.seconds[1])
            peaks.append(seen.peak)
    behind = statistics.median(named) - statistics.median(empty)
    note = f"{statistics.median(named):.2f} s; empty app {statistics.median(empty):.2f} s"
    row = "671b-frame"
    return [
        Result(row, "first frame with names behind an empty app's, s", behind, 1, "less", note),
        Result(row, "both sides listed after the start, s", statistics.median(listed), 5, "less"),
        Result(row, "peak RSS by then, MB", max(peaks) / 1e6, MAX_MB, "less"),
    ]
