"""Rows 2, 3, 7, 9, 10, 14, 16, 17 and the first frame: the whole program, from its start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from . import rivals
from .data import LARGE, SMALL, files
from .harness import (
    CKPTDIFF,
    REPOSITORY,
    Result,
    Times,
    diff_command,
    diff_program,
    drop_from_cache,
    peak_memory,
    program,
    python,
    race,
    warm_cache,
)
from .screen import watch_screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .data import Data


def rows_2_3(data: Data, wanted: set[str], rounds: int, sft: str | None) -> list[Result]:
    """Time equal small checkpoints."""
    a, b = data.hf(SMALL, "base"), data.hf(SMALL, "same")
    one, other = a / "model.safetensors", b / "model.safetensors"
    warm_cache([one, other])
    contenders: dict[str, Callable[[], object]] = {
        "ckptdiff": diff_program(a, b),
        "cmp": program("cmp", one, other, codes=(0,)),
    }
    if "3" in wanted:
        contenders["naive"] = python(rivals.NAIVE, one, other)
        contenders["load_file"] = python(rivals.LOAD_AND_EQUAL, one, other)
        if sft:
            contenders["sft"] = program(sft, "diff", one, other, "--delta", "--json")
    times = race(contenders, rounds=rounds)
    note = times.text()
    results = []
    if "2" in wanted:
        what = "equal, 2x0.5 GB: time over that of cmp"
        results.append(Result("2", what, times.ratio("ckptdiff", "cmp"), 0.85, "less", note))
    if "3" in wanted:
        for name, bar in (("naive", 15), ("load_file", 7), ("sft", 15)):
            value = times.ratio(name, "ckptdiff") if name in contenders else None
            what = f"equal, 2x0.5 GB: times faster than {name}"
            results.append(Result("3", what, value, bar, "more", note))
    return results


def row_7(data: Data, wanted: set[str], rounds: int, sft: str | None) -> list[Result]:
    """Time differing checkpoints of both sizes."""
    results = []
    for size, label, naive_bar, sft_bar in ((SMALL, "0.5", 6, 8), (LARGE, "2.5", 10, 18)):
        a, b = data.hf(size, "base"), data.hf(size, "scaled")
        one, other = a / "model.safetensors", b / "model.safetensors"
        warm_cache([one, other])
        contenders: dict[str, Callable[[], object]] = {
            "ckptdiff": diff_program(a, b, "--no-diagnose"),
            "naive": python(rivals.NAIVE, one, other),
        }
        if sft:
            contenders["sft"] = program(sft, "diff", one, other, "--delta", "--json")
        times = race(contenders, rounds=rounds)
        for name, bar in (("naive", naive_bar), ("sft", sft_bar)):
            value = times.ratio(name, "ckptdiff") if name in contenders else None
            what = f"differing, 2x{label} GB: times faster than {name}"
            results.append(Result("7", what, value, bar, "more", times.text()))
    return results


def row_9(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time differing checkpoints that have to be read from the disk."""
    a, b = data.hf(LARGE, "base"), data.hf(LARGE, "scaled")
    cold = files(a, b)
    diff, cat = diff_program(a, b, "--no-diagnose"), program("cat", *cold, codes=(0,))
    seconds: dict[str, list[float]] = {"ckptdiff": [], "cat": []}
    for _ in range(rounds):
        for name, run in (("ckptdiff", diff), ("cat", cat)):
            drop_from_cache(cold)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    times = Times(seconds)
    what = "differing, 2x2.5 GB, cold: time over that of cat"
    return [Result("9", what, times.ratio("ckptdiff", "cat"), 1.3, "less", times.text())]


def row_10(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time a comparison straight from the shards."""
    a, same, twin = data.hf(LARGE, "base"), data.hf(LARGE, "same"), data.megatron(LARGE)
    warm_cache(files(a, same, twin))
    program(*diff_command(a, twin), codes=(0,))()  # it is a twin
    contenders: dict[str, Callable[[], object]] = {
        "HF/HF": diff_program(a, same),
        "HF/Megatron": diff_program(a, twin),
    }
    times = race(contenders, rounds=rounds)
    what = "equal, 2x2.5 GB: speed with Megatron TP=2 over HF/HF"
    return [Result("10", what, times.ratio("HF/HF", "HF/Megatron"), 0.75, "more", times.text())]


def row_14(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Watch the memory of the program and its workers."""
    peaks = {}
    notes = []
    for size, label in ((SMALL, "S"), (LARGE, "L")):
        a, b = data.hf(size, "base"), data.hf(size, "scaled")
        found = sorted(peak_memory(*diff_command(a, b, "--no-diagnose")).values())
        peaks[label] = found[-1]
        notes.append(f"{label}: " + ", ".join(f"{n / 2**20:.0f}" for n in found) + " MiB")
    note = "; ".join(notes)
    greatest = max(peaks.values()) / 2**20
    return [
        Result("14", "peak RSS of a process, MiB", greatest, 128, "less", note),
        Result(
            "14", "peak RSS, 2x2.5 GB over 2x0.5 GB", peaks["L"] / peaks["S"], 1.1, "less", note
        ),
    ]


OPEN = """
import sys, time, json
from pathlib import Path
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.formats import open_checkpoint
start = time.perf_counter()
a, b = (open_checkpoint(Path(path)) for path in sys.argv[1:3])
seconds = time.perf_counter() - start
peak = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmHWM:"))
print(json.dumps([seconds, peak * 1024]))
"""

GROW = """
import sys, time, json
from pathlib import Path
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.executor import WorkerPool
from ckptdiff.formats import open_checkpoint

def main():
    pair = assemble_pair(*(open_checkpoint(Path(path)) for path in sys.argv[1:3]))
    a, b = pair[0], pair[1]
    names, size = [], 0
    for name, tensor in a.tensors.items():
        if size >= float(sys.argv[3]):
            break
        names.append(name)
        count = 1
        for n in tensor.shape:
            count *= n
        size += 4 * count
    with WorkerPool(2) as pool:
        list(diff(a, b, pool, names=names[:1]))
        start = time.perf_counter()
        results = list(diff(a, b, pool, names=names))
        seconds = time.perf_counter() - start
        assert {r.status for r in results} == {"same"}
        peaks = []
        for pid in [*map(str, pool._pool._processes), "self"]:
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            peaks.append(next(int(x.split()[1]) for x in status if x.startswith("VmHWM:")))
    print(json.dumps([seconds, size, max(peaks) * 1024]))

if __name__ == "__main__":
    main()
"""


def _script(folder: Path, text: str, *arguments: str | Path) -> list[float]:
    """Run a script from a file, as spawned workers need it, and return what it prints."""
    file = folder / "script.py"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, str(file), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    values: list[float] = json.loads(done.stdout)
    return values


def row_16(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Open a 70B pair: headers of 30 files, and the pickles of eight ranks."""
    a, b = data.sparse("hf"), data.sparse("megatron")
    found = [_script(data.folder, OPEN, a, b) for _ in range(rounds + 1)][1:]
    seconds = sorted(f[0] for f in found)
    memory = max(f[1] for f in found) / 2**20
    note = f"{1e3 * seconds[0]:.0f} / {1e3 * seconds[len(seconds) // 2]:.0f} ms"
    middle = 1e3 * seconds[len(seconds) // 2]
    return [
        Result("16", "open both sides of a sparse 70B, ms", middle, 100, "less", note),
        Result("16", "peak RSS of that, MiB", memory, 64, "less"),
    ]


def row_17(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Compare 5 and 20 GB of zeros: says that time and memory grow as they should, no more."""
    a, b = data.sparse("hf"), data.sparse("linked")
    found: dict[float, list[list[float]]] = {5e9: [], 20e9: []}
    # Even zeros take room in the page cache, and filling it takes longer than comparing them.
    drop_from_cache(files(data.folder))
    _script(data.folder, GROW, a, b, str(20e9))
    for _ in range(rounds):
        for size, runs in found.items():
            runs.append(_script(data.folder, GROW, a, b, str(size)))
    drop_from_cache(files(a, b))
    per_byte = {
        size: sorted(run[0] / run[1] for run in runs)[len(runs) // 2]
        for size, runs in found.items()
    }
    peak = {size: max(run[2] for run in runs) for size, runs in found.items()}
    note = ", ".join(
        f"{size / 1e9:.0f} GB: {1 / per_byte[size] / 1e9:.1f} GB/s, {peak[size] / 2**20:.0f} MiB"
        for size in found
    )
    return [
        Result(
            "17", "sparse, 20 over 5 GB: time per byte", per_byte[20e9] / per_byte[5e9], 1.15,
            "less", note,
        ),
        Result("17", "sparse, 20 over 5 GB: peak RSS", peak[20e9] / peak[5e9], 1.1, "less", note),
    ]  # fmt: skip


def row_frame(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time the first frame with names on it against the import that it does without."""
    a, b = data.hf(SMALL, "base"), data.hf(SMALL, "scaled")
    program_of_pair = [*CKPTDIFF, str(a), str(b)]
    contenders: dict[str, Callable[[], object]] = {
        "first frame": lambda: watch_screen(program_of_pair, b"embed_tokens|self_attn|q_proj"),
        "import torch": python("import torch"),
    }
    times = race(contenders, rounds=rounds)
    what = "first frame with names, over the time of `import torch`"
    value = times.ratio("first frame", "import torch")
    return [Result("frame", what, value, 0.6, "less", times.text())]
