"""A running `ckptdiff serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiohttp

from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Served:
    """A server at a free port, with settings of its own; leaving the context ends all of it."""

    def __init__(self, paths: Sequence[Path], *, env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the server
        self._config = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0", *map(str, paths)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**(os.environ if env is None else env), "XDG_CONFIG_HOME": self._config.name},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline().rstrip("\n") for _ in range(3)]
        assert self.lines[0], self.error()
        self.url = self.lines[0].split()[1]
        self.port = int(self.url.rpartition(":")[2])

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        self._config.cleanup()

    async def tab(self) -> aiohttp.ClientWebSocketResponse:
        """Connect as the page does."""
        return await self.session.ws_connect(f"{self.url}/ws?width=120&height=40", origin=self.url)

    def programs(self) -> list[int]:
        """Return the process of each session."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in children.read_text().split()]

    def error(self) -> str:
        """Return what the server wrote to the standard error."""
        self._errors.seek(0)
        return self._errors.read()


async def until(condition: Callable[[], bool], otherwise: str = "it did not come true") -> None:
    """Wait for a condition. Raises TimeoutError with these words."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        await asyncio.sleep(0.02)
