"""An executor whose jobs another thread can cancel."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Stopped(Exception):
    """The user has stopped the work."""


class Cancellable(Executor):
    """Submits jobs to a pool. `cancel` ends all of them, from any thread."""

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
        """Cancel all jobs: waiting for one raises CancelledError, submitting another Stopped."""
        self.is_cancelled = True
        for future in list(self._futures):
            future.cancel()
