"""The progress of a comparison or conversion: fraction, rate, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress:
    """Counts bytes and tensors done, and the seconds of a clock since the start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.bytes_total = 0
        self.bytes_done = 0
        self.tensors_total = 0
        self.tensors_done = 0
        self._started: float | None = None
        self._ended: float | None = None

    def start(self, nbytes: int, tensors: int) -> None:
        self.bytes_total, self.bytes_done = nbytes, 0
        self.tensors_total, self.tensors_done = tensors, 0
        self._started, self._ended = self._clock(), None

    def add(self, nbytes: int) -> None:
        self.bytes_done += nbytes
        self.tensors_done += 1

    def finish(self) -> None:
        if self._started is not None and self._ended is None:
            self._ended = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds since the start, or from the start to the end."""
        if self._started is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def fraction(self) -> float:
        """The fraction that is done, from 0 to 1."""
        if self.bytes_total:
            return min(1.0, self.bytes_done / self.bytes_total)
        return self.tensors_done / self.tensors_total if self.tensors_total else 0.0

    @property
    def rate(self) -> float | None:
        """Bytes per second; None before anything is done."""
        seconds = self.seconds
        return self.bytes_done / seconds if seconds > 0 and self.bytes_done else None

    @property
    def eta(self) -> float | None:
        """Seconds left; None before anything is done."""
        rate = self.rate
        return (self.bytes_total - self.bytes_done) / rate if rate else None
