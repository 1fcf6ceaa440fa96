"""Jobs that another thread can give up at once."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Stopped(Exception):
    """The user does not want this any more."""


class Cancellable(Executor):
    """A pool's jobs, all of which can be given up at once, from another thread."""

    def __init__(self, pool: Callable[[], Executor]) -> None:
        self._pool = pool
        self._futures: list[Future[Any]] = []
        self.is_cancelled = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.is_cancelled:
            raise Stopped
        future = self._pool().submit(fn, *args, **kwargs)
        self._futures = [each for each in self._futures if not each.done()]
        self._futures.append(future)
        if self.is_cancelled:
            future.cancel()
        return future

    def cancel(self) -> None:
        """Have whoever waits for a job, or submits another, stop waiting."""
        self.is_cancelled = True
        for future in list(self._futures):
            future.cancel()
