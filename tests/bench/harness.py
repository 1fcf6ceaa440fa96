"""Time rivals in turn, watch the memory of process trees, and judge against bars."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPOSITORY = Path(__file__).parents[2]
CKPTDIFF = (sys.executable, "-m", "ckptdiff")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each round, by contender."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> float:
        """Return how many times longer `name` takes, by the medians."""
        return self.median(name) / self.median(other)

    def text(self) -> str:
        return "; ".join(
            f"{name} {min(seconds):.3f} / {self.median(name):.3f} s"
            for name, seconds in self.rounds.items()
        )


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure and what it is held to."""

    row: str
    what: str
    value: float | None  # None: not run
    bar: float
    better: Literal["more", "less"]
    note: str = ""  # the times behind it, minimum / median
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not run"
        reached = self.value >= self.bar if self.better == "more" else self.value <= self.bar
        return "ok" if reached else "short"

    def line(self) -> str:
        value = "-" if self.value is None else f"{self.value:.3g}"
        sign = ">=" if self.better == "more" else "<="
        return (
            f"{self.row:>10}  {self.what:<58} {value:>9}  {sign} {self.bar:<7.3g} "
            f"{self.verdict:<8}{self.note}  [load {self.load}]"
        )


def race(contenders: dict[str, Callable[[], object]], *, rounds: int, warm: bool = True) -> Times:
    """Run contenders in turn, `rounds` times; a first time that does not count, if `warm`.

    What a contender's `before` does, if it has one, is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1 if warm else 0, rounds):
        for name, run in contenders.items():
            getattr(run, "before", lambda: None)()
            gc.collect()
            start = time.perf_counter()
            run()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return Times(times)


def program(*command: str | Path, codes: Sequence[int] = (0, 1)) -> Callable[[], None]:
    """Return a function that runs a program to its end, its output thrown away."""

    def run() -> None:
        done = subprocess.run(
            [str(word) for word in command], cwd=REPOSITORY, capture_output=True, check=False
        )
        if done.returncode not in codes:
            raise RuntimeError(f"{command} exits {done.returncode}: {done.stderr.decode()[-2000:]}")

    return run


def python(script: str, *arguments: str | Path) -> Callable[[], None]:
    return program(sys.executable, "-c", script, *arguments, codes=(0,))


def diff_command(a: Path, b: Path, *options: str) -> tuple[str | Path, ...]:
    return (*CKPTDIFF, "diff", a, b, "--json", os.devnull, *options)


def diff_program(a: Path, b: Path, *options: str) -> Callable[[], None]:
    return program(*diff_command(a, b, *options))


def peak_memory(*command: str | Path) -> dict[int, int]:
    """Return the greatest resident bytes (VmHWM) of a program and of each process it starts."""
    peaks: dict[int, int] = {}
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        for pid in _tree(process.pid):
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peaks[pid] = max(peaks.get(pid, 0), int(line.split()[1]) * 1024)
        time.sleep(0.005)
    return peaks


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def drop_from_cache(files: Sequence[Path]) -> None:
    """Have the system forget the content of files that no process maps."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm_cache(files: Sequence[Path]) -> None:
    """Read files into the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as f:
            buffer = bytearray(1 << 23)
            while f.readinto(buffer):
                pass


def environment() -> dict[str, object]:
    """Return what the figures depend on."""
    versions = {}
    for package in ("numpy", "torch", "safetensors", "textual", "sft-cli"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    model = ""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": list(os.getloadavg()),
        "versions": versions,
    }
