"""Fuzz what reads files: `python -m tests.fuzz NAME ...`, or `all`. Needs atheris.

Finds are written to a folder, each with a text beside it that says what came of it. The exit
status is 1 if there is one. With `--total` the harnesses take turns until so many inputs were read.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from tests.fuzz.guard import BROKEN, SECONDS, Slot, keep
from tests.fuzz.harnesses import HARNESSES

MOST_DEATHS = 20  # of processes, of one harness: what kills so many should be mended first
LOG_SECONDS = 60


@dataclass
class Run:
    """One harness under way."""

    name: str
    work: Path
    finds: Path
    seconds: int  # in all
    runs: int  # in all; 0: as many as there is time for
    started: float = field(default_factory=time.monotonic)
    deaths: int = 0
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.slot = Slot(self.work / f"{self.name}.slot")
        self.before = self.slot.count
        self.begin()

    @property
    def inputs(self) -> int:
        return self.slot.count - self.before

    def begin(self) -> None:
        """Start a process for what is left of the time and of the inputs."""
        left = max(1, round(self.seconds - (time.monotonic() - self.started)))
        runs = max(1, self.runs - self.inputs) if self.runs else 0
        words = [self.name, self.work, left, runs, self.finds]
        self.said = (self.work / f"{self.name}.stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", *map(str, words)],
            stderr=self.said,
            text=True,
        )

    def is_over(self) -> bool:
        """Return whether all is done; start again if a process died, and keep what it died of."""
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            return False
        self.said.seek(0)
        said = self.said.read()
        self.said.close()
        sys.stdout.write("".join(f"{x}\n" for x in said.split("\n") if x.startswith(self.name)))
        if status == BROKEN or (status and not self.inputs):
            raise SystemExit(f"{self.name}: the harness itself fails\n{said[-3000:]}")
        if status:
            self.deaths += 1
            what = f"ended with {status}, hang or crash" if status != -27 else f"over {SECONDS} s"
            if not HARNESSES[self.name].in_worker:
                file = keep(self.finds / self.name, self.slot.get(), what, said[-8000:])
                sys.stdout.write(f"{self.name}: {what}: {file}\n")
        sys.stdout.flush()
        over = time.monotonic() - self.started >= self.seconds - 1
        enough = self.runs and self.inputs >= self.runs
        if over or enough or self.deaths >= MOST_DEATHS:
            return True
        if status or not self.runs:
            self.begin()
            return False
        return True


def main() -> int:
    """Fuzz as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*HARNESSES, "all"], metavar="NAME")
    parser.add_argument("--seconds", type=int, default=60, help="of each harness, or of each turn")
    parser.add_argument("--runs", type=int, default=0, help="inputs of each harness, at most")
    parser.add_argument("--total", type=int, default=0, help="inputs of all harnesses, by turns")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps what it learns")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a line a minute")
    options = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install 'atheris>=3'")
    names = list(HARNESSES) if "all" in options.names else options.names
    with tempfile.TemporaryDirectory(dir=_fast()) as made:
        work = (options.work or Path(made)).absolute()
        _prepare(work)
        counts, seconds = _turns(names, work, options)
    for name in names:
        rate = counts[name] / max(seconds[name], 0.1)
        sys.stdout.write(f"{name:12} {counts[name]:>10} inputs, {rate:6.0f} a second\n")
    found = [file for file in options.finds.glob("*/*.txt")] if options.finds.exists() else []
    sys.stdout.write(f"{sum(counts.values())} inputs, {len(found)} finds in {options.finds}\n")
    return 1 if found else 0


def _fast() -> Path | None:
    """Return a folder in memory: every input is written to a file."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 1 << 28 else None


def _prepare(work: Path) -> None:
    """Write bases and seeds, unless an earlier run did.

    That needs torch, whose memory would count as that of every process started from here.
    """
    if not (work / "bases").exists():
        subprocess.run([sys.executable, "-m", "tests.fuzz.seeds", work], check=True)
    for name in HARNESSES:
        (work / f"{name}.known").touch()
    shutil.rmtree(work / "scratch", ignore_errors=True)


def _turns(
    names: list[str], work: Path, options: argparse.Namespace
) -> tuple[Counter[str], Counter[str]]:
    """Fuzz each harness, or all of them by turns; return inputs and seconds of each."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    waiting, running = list(names), list[Run]()
    logged = time.monotonic()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            finds = options.finds.absolute()
            running.append(Run(waiting.pop(0), work, finds, options.seconds, options.runs))
        time.sleep(0.2)
        for run in list(running):
            if run.is_over():
                running.remove(run)
                counts[run.name] += run.inputs
                seconds[run.name] += round(time.monotonic() - run.started)
        if not waiting and sum(counts.values()) < options.total:
            waiting = list(names)
        if options.log and time.monotonic() - logged >= LOG_SECONDS:
            logged = time.monotonic()
            with options.log.open("a") as log:
                _log(log, counts + Counter({run.name: run.inputs for run in running}), seconds)
    if options.log:
        with options.log.open("a") as log:
            _log(log, counts, seconds)
    return counts, seconds


def _log(log: TextIO, counts: Counter[str], seconds: Counter[str]) -> None:
    each = " ".join(f"{name}={counts[name]}/{seconds[name]}s" for name in HARNESSES)
    log.write(f"{time.strftime('%F %T')} sum={sum(counts.values())} {each}\n")


if __name__ == "__main__":
    raise SystemExit(main())
