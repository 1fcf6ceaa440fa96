"""Fuzz what reads files: `python -m tests.fuzz NAME ...`, or `all`.

Finds are written to a folder, each with a text beside it that says what came of it. The exit
status is 1 if there is one. atheris watches what an input reaches; with `--blind` it is not needed,
and some ten times as many inputs are read, which are changes of those that it found before.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.guard import BROKEN, SECONDS, Slot, keep
from tests.fuzz.harnesses import HARNESSES

KINDS = ("guided", "blind")
MOST_DEATHS = 20  # of processes, of one harness: what kills so many should be mended first
LOG_SECONDS = 60
STANDSTILL = 120  # seconds without a new input, after which a process waits for what never comes
_PLACE = re.compile(r'/ckptdiff/(\S+)", line (\d+) in (\w+)')


@dataclass
class Run:
    """One harness under way."""

    kind: str
    name: str
    work: Path
    finds: Path
    seconds: int  # in all
    runs: int  # in all; 0: as many as there is time for
    started: float = field(default_factory=time.monotonic)
    deaths: int = 0
    is_broken: bool = False
    seen: tuple[int, float] = (0, 0.0)  # inputs, and when there were first so many

    def __post_init__(self) -> None:
        self.slot = Slot(self.work / f"{self.name}.{self.kind}")
        self.before = self.slot.count
        self.known = self.work / f"{self.name}.known"
        self.known.touch()
        self.begin()

    @property
    def inputs(self) -> int:
        return self.slot.count - self.before

    def begin(self) -> None:
        """Start a process for what is left of the time and of the inputs."""
        left = max(1, round(self.seconds - (time.monotonic() - self.started)))
        runs = max(1, self.runs - self.inputs) if self.runs else -1
        words = [self.kind, self.name, self.work, left, runs, self.finds]
        self.said = (self.work / f"{self.name}.stderr").open("w+", errors="replace")
        command = [sys.executable, "-m", "tests.fuzz.child", *map(str, words)]
        self.process = subprocess.Popen(command, stderr=self.said)
        self.seen = self.slot.count, time.monotonic()

    def is_over(self) -> bool:
        """Return whether all is done; start again if a process died, and keep what it died of."""
        status = self.process.poll()
        if status is None:
            self._end_a_standstill()
            return False
        self.said.seek(0)
        said = self.said.read()
        self.said.close()
        sys.stdout.write("".join(f"{x}\n" for x in said.split("\n") if x.startswith(self.name)))
        if status == BROKEN or (status and not self.inputs):
            sys.stdout.write(f"{self.name}: the harness itself fails\n{said[-3000:]}\n")
            self.is_broken = True
            return True
        if status:
            self.deaths += 1
            if status == -signal.SIGPROF and _PLACE.search(said) is None:
                sys.stdout.write(f"{self.name}: atheris waited for ever, and was ended\n")
            elif not HARNESSES[self.name].in_worker:
                self._keep_death(status, said)
        sys.stdout.flush()
        is_over = time.monotonic() - self.started >= self.seconds - 1 or (
            self.runs > 0 and self.inputs >= self.runs
        )
        if is_over or self.deaths >= MOST_DEATHS:
            return True
        self.begin()
        return False

    def _end_a_standstill(self) -> None:
        """End a process without new inputs by the signal at which it says where it is."""
        count, since = self.seen
        if self.slot.count != count:
            self.seen = self.slot.count, time.monotonic()
        elif time.monotonic() - since > STANDSTILL:
            self.process.send_signal(signal.SIGPROF)
            self.seen = count, time.monotonic()

    def _keep_death(self, status: int, said: str) -> None:
        """Keep the input that a process died of, once for each place where it was."""
        what = (
            f"more than {SECONDS} s"
            if status == -signal.SIGPROF
            else f"a process that ends with {status}"
        )
        place = _PLACE.search(said)
        what += "" if place is None else f" at {place[1]}:{place[3]}"
        if what not in self.known.read_text().split("\n"):
            with self.known.open("a") as out:
                out.write(f"{what}\n")
            file = keep(self.finds / self.name, self.slot.get(), what, said[-8000:])
            sys.stdout.write(f"{self.name}: {what}: {file}\n")


def main() -> int:
    """Fuzz as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*HARNESSES, "all"], metavar="NAME")
    parser.add_argument("--seconds", type=int, default=60, help="of each harness")
    parser.add_argument("--runs", type=int, default=0, help="inputs of each harness, at most")
    parser.add_argument("--blind", action="store_true", help="without atheris")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps what was found so far")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a line a minute")
    options = parser.parse_args()
    if not options.blind and find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -e '.[fuzz]', or give --blind")
    names = list(HARNESSES) if "all" in options.names else options.names
    with tempfile.TemporaryDirectory(dir=_fast()) as made:
        work = (options.work or Path(made)).absolute()
        _prepare(work)
        total, are_broken = _run(names, work, options)
    found = list(options.finds.glob("*/*.txt"))
    sys.stdout.write(f"{total} inputs, {len(found)} finds in {options.finds}\n")
    return 2 if are_broken else 1 if found else 0


def _fast() -> Path | None:
    """Return a folder in memory: every input is written to a file."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 1 << 28 else None


def _prepare(work: Path) -> None:
    """Write bases and seeds, unless an earlier run did.

    That needs torch, whose memory would count as that of every process started from here.
    """
    if not all((work / "seeds" / name).exists() for name in HARNESSES):
        subprocess.run([sys.executable, "-m", "tests.fuzz.seeds", work], check=True)
    shutil.rmtree(work / "scratch", ignore_errors=True)


def _run(names: list[str], work: Path, options: argparse.Namespace) -> tuple[int, bool]:
    """Fuzz each harness; return the number of inputs, and whether a harness itself failed."""
    total, are_broken = 0, False
    waiting, running = list(names), list[Run]()
    logged = time.monotonic()
    kind = KINDS[options.blind]
    while waiting or running:
        while waiting and len(running) < options.jobs:
            finds = options.finds.absolute()
            running.append(Run(kind, waiting.pop(0), work, finds, options.seconds, options.runs))
        time.sleep(0.2)
        for run in list(running):
            if run.is_over():
                running.remove(run)
                total += run.inputs
                are_broken |= run.is_broken
                rate = run.inputs / (time.monotonic() - run.started)
                sys.stdout.write(f"{run.name}: {run.inputs} inputs, {rate:.0f} a second\n")
        if options.log and (time.monotonic() - logged > LOG_SECONDS or not (waiting or running)):
            logged = time.monotonic()
            _log(options.log, work)
    return total, are_broken


def _log(file: Path, work: Path) -> None:
    """Write how many inputs of each harness were read since the folder `work` was made."""
    total, words = 0, []
    for place in (work / f"{name}.{kind}" for kind in KINDS for name in HARNESSES):
        if place.exists() and (count := Slot(place).count):
            total += count
            words.append(f"{place.name}={count}")
    with file.open("a") as out:
        out.write(f"{time.strftime('%F %T')} sum={total} {' '.join(words)}\n")


if __name__ == "__main__":
    raise SystemExit(main())
