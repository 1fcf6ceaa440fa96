"""Run the real program in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = [sys.executable, "-m", "ckptdiff"]
Done = subprocess.CompletedProcess[str]


def ckptdiff(*arguments: object, cwd: Path | None = None) -> Done:
    """Run a command without a terminal, as a script does."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
    )


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def parse(text: str) -> dict[str, Any]:
    """Read one document of strict JSON: no NaN, no Infinity, nothing behind it."""
    found: dict[str, Any] = json.loads(text, parse_constant=_no_constant)
    return found


def document(done: Done) -> dict[str, Any]:
    """Return the only thing that a command printed."""
    assert done.stderr == ""
    assert done.stdout.endswith("}\n")
    assert done.stdout.count("\n") == 1
    return parse(done.stdout)


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait for a condition; return whether it came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def group(leader: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, _, pgid = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgid) == leader and state != "Z":
            found.append(int(entry.name))
    return found


def maps(pid: int, file: Path) -> bool:
    """Return whether a process has mapped a file: whether it is at work on it."""
    try:
        return str(file) in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def processor_seconds() -> float:
    """Return the time that all ended children, and theirs, have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
