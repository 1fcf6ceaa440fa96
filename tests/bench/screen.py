"""Run programs in a terminal and time what they show."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .harness import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 60  # seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """When each of several texts was on the screen, and what the program was at the last one."""

    seconds: tuple[float, ...]
    peak: int  # resident bytes
    mapped: str  # the files it had mapped


def watch_screen(command: Sequence[str], *texts: bytes, rows: int = 40, columns: int = 120) -> Seen:
    """Run a program until it has shown these regular expressions, one after the other."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.environ["TERM"] = "xterm-256color"
        os.execv(command[0], list(command))
    start = time.perf_counter()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    shown = b""
    seconds: list[float] = []
    try:
        while time.perf_counter() - start < PATIENCE:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 1 << 16)
                except OSError:
                    break
                plain = re.sub(rb"\x1b\[[0-9;:?]*[a-zA-Z]", b"", shown)
                while re.search(texts[len(seconds)], plain):
                    seconds.append(time.perf_counter() - start)
                    if len(seconds) == len(texts):
                        status = Path(f"/proc/{pid}/status").read_text()
                        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                        return Seen(tuple(seconds), peak, Path(f"/proc/{pid}/maps").read_text())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    missing = texts[len(seconds)]
    raise RuntimeError(f"{missing!r} was not shown in {PATIENCE} s; the screen: {shown[-2000:]!r}")
