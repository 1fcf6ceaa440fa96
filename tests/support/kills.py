"""Conversions that kill themselves: at the n-th step that changes something on the disk.

A step is a call of the system by its name in `os`, or the exchange of two folders. The process dies
as it enters the step, so the steps 1, 2, 3, ... leave every state that a kill can leave, but for a
call that was half done. `tests/bench/kills.py` does the same to the whole program with
strace, which knows nothing of these names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptdiff.assembly.assemble import assemble
from ckptdiff.conversion.plan import Target, plan_conversion
from ckptdiff.conversion.run import convert
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint

STEPS = (
    "ftruncate", "link", "mkdir", "open", "pwrite", "remove", "rename", "replace", "rmdir",
    "symlink", "truncate", "unlink", "write",
)  # fmt: skip
_WRITE = os.write


class KilledConversions:
    """A process without threads, which forks one for each conversion. A context manager."""

    steps = 0  # of the last conversion that came to its end

    def __enter__(self) -> KilledConversions:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kills"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def kill_at(self, step: int, source: Path, out: Path, **how: Any) -> bool:
        """Convert and die at a step, from 1 on; return whether the conversion got there.

        `how` is as for `_convert`. If it did not, `steps` says how many there were.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {"step": step, "source": str(source), "out": str(out), **how}
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        code, self.steps = map(int, self._server.stdout.readline().split())
        assert code in (0, -signal.SIGKILL), f"step {step}: exit code {code}"
        return code != 0


def _convert(
    step: int, source: str, out: str, *, verify: bool = True, exchanges: bool = True, **target: Any
) -> int:
    """Convert, and die at a step; return how many there were if none was it.

    `exchanges`: whether the file system can let two folders change their names in one step.
    """
    assembled = assemble(open_checkpoint(Path(source)))
    conversion = plan_conversion(assembled, Path(out), Target(**target))
    taken = 0

    def counted(module: Any, name: str) -> None:
        call = getattr(module, name)

        def step_of(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                taken += 1
                if taken == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        setattr(module, name, step_of)

    for name in STEPS:
        counted(os, name)
    os.fsync = lambda fd: None  # what was given to the system is written, whoever is killed
    partial_folder: Any = import_module("ckptdiff.conversion.partial.folder")
    if exchanges:
        counted(partial_folder, "exchanged")
    else:
        partial_folder.exchanged = lambda a, b: False
    with closing(convert(conversion, InlineExecutor(), verify=verify)) as events:
        for _ in events:
            pass
    return taken


def _serve() -> None:
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            taken = _convert(**json.loads(line))
            _WRITE(writer, str(taken).encode())
            os._exit(0)
        os.close(writer)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        steps = os.read(reader, 100).decode() or "0"
        os.close(reader)
        sys.stdout.write(f"{code} {steps}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
