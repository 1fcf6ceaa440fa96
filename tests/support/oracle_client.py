"""Ask `oracle_server` for what megatron-core and transformers compute."""

from __future__ import annotations

import json
import os
import subprocess
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

from tests.support.corpus import REPOSITORY
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


class Oracle:
    """A running server, started by the first question."""

    def __init__(self, python: str, errors: Path) -> None:
        self.python = python
        self.errors = errors  # where the server's stderr goes
        self.server: subprocess.Popen[str] | None = None

    def compare(self, module: str, *, ranks: int, **arguments: Any) -> dict[str, Any]:
        """Return how far the logits of a model are apart in its two implementations."""
        server = self.server = self.server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        job = {"module": f"tests.support.{module}", "ranks": ranks, "arguments": arguments}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
        assert line, self.errors.read_text()[-3000:]
        answer = json.loads(line)
        assert "error" not in answer, answer["error"][-3000:]
        found: dict[str, Any] = answer["found"]
        return found

    def run(self, module: str, *arguments: object) -> str:
        """Run a module of `tests.support` in a process of its own; return what it prints."""
        done = subprocess.run(
            [self.python, "-m", f"tests.support.{module}", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def stop(self) -> None:
        if self.server is not None:
            os.killpg(self.server.pid, SIGKILL)  # and its ranks, should they hang
            self.server.communicate()

    def _start(self) -> subprocess.Popen[str]:
        with self.errors.open("w") as errors:
            return subprocess.Popen(
                [self.python, "-m", "tests.support.oracle_server"],
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "HF_HUB_OFFLINE": "1",
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
