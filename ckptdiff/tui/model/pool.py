"""A worker pool that starts on first use."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor


class Pool:
    """Holds an executor. `get` blocks while it starts, so it is called in threads."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make = make
        self._executor: Executor | None = None
        self._lock = threading.Lock()

    def get(self) -> Executor:
        """Return the executor, started if it is not running."""
        with self._lock:
            if self._executor is None:
                self._executor = self._make()
            return self._executor

    def close(self) -> None:
        """Stop the workers without waiting for their jobs."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None
