"""What worker processes run in tests. They import this module, so it imports nothing slow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ckptdiff.comparison.parts import DiffPart, Outcome, run_parts
from ckptdiff.errors import CorruptFile
from ckptdiff.kernels.views import View
from tests.support.patience import PATIENCE


def double(number: int) -> int:
    return 2 * number


def fail(message: str) -> None:
    raise CorruptFile(message)


def die(how: int) -> None:
    os.kill(os.getpid(), how)
    time.sleep(30)


def die_as_it_starts(log: str, _forked: bool) -> None:
    """Stands for what prepares a worker: each that starts leaves a byte in the log, and dies."""
    with Path(log).open("ab", buffering=0) as out:
        out.write(b".")
    die(signal.SIGKILL)


def die_once(marker: str) -> int:
    """Kill the worker the first time, as one would that another job took along."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 7
    die(signal.SIGKILL)
    return 0


def read_while_it_shrinks(file: str, size: int) -> float:
    """Map a file, have somebody cut it off, and read on."""
    from ckptdiff.kernels.memory import matrix

    mapped = matrix(View(file, 0, (size // 4, 1), (1, 1), "F32"))
    os.truncate(file, 4096)
    return float(mapped.sum())


def environment() -> tuple[int, str, object]:
    return os.getpid(), os.environ["OPENBLAS_NUM_THREADS"], signal.getsignal(signal.SIGINT)


def print_something() -> None:
    os.write(1, b"out of a worker\n")
    os.write(2, b"trouble of a worker\n")


def touch(file: str) -> None:
    Path(file).touch()


def wait_for(file: str) -> None:
    """Keep the worker busy until somebody makes this file."""
    end = time.monotonic() + PATIENCE
    while not Path(file).exists() and time.monotonic() < end:
        time.sleep(0.01)


class Deadly:
    """Stands for a job that kills its worker when it comes to one place in the file."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, parts: tuple[DiffPart, ...]) -> list[Outcome]:
        if any(block.a.offset == self.offset for part in parts for block in part.blocks):
            die(signal.SIGKILL)
        return run_parts(parts)
