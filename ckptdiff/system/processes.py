"""Processes of a pool: as many as the system lets start, and why one of them died."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures.process import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for_any
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from concurrent.futures import Future
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from ckptdiff.executor import Submission

Start = Literal["spawn", "fork"]
# Of a pool: the manager, what feeds its queue, and the one that tries jobs of a broken pool again.
_THREADS = 3
_REAPED_SECONDS = 5.0  # until a process that is known to have ended has its exit code

# What has most likely happened, by the signal that ended a worker.
_CAUSES = {
    signal.SIGBUS: "a file shrank meanwhile. See that nothing writes to the checkpoint, and try "
    "again",
    signal.SIGKILL: "memory ran out, most likely. Free some, or take fewer workers, and try again",
    signal.SIGXCPU: "its limit of processor time is reached. Raise it (ulimit -t), and try again",
}
_NO_CAUSE = (
    "a file shrank meanwhile, or memory ran out. See that nothing writes to the checkpoint, and "
    "try again"
)
SHORT_LIVED = (
    "worker processes end as soon as they are started{how}: memory is too short for them, or a "
    "limit (ulimit -a) too low. Raise it, or take fewer workers, and try again"
)


class Workers(ProcessPoolExecutor):
    """A process pool that goes on with the workers that it has where the system allows no more."""

    def __init__(self, jobs: int, start: Start, log: Path | None) -> None:
        """Make a pool of at most `jobs` workers, which start when jobs are submitted.

        Raises OSError or NotImplementedError where the system has no pipes or semaphores for it.
        """
        super().__init__(
            jobs,
            mp_context=get_context(start),
            initializer=_prepare_worker,
            initargs=(str(log) if log else os.devnull, start == "fork"),
        )
        self.started: list[BaseProcess] = []
        self._start = start

    def _spawn_process(self) -> None:
        try:
            super()._spawn_process()  # type: ignore[misc]
        except OSError:
            if not self._processes:
                raise
            self._max_workers = len(self._processes)
        else:
            self.started = list(self._processes.values())

    def _start_executor_manager_thread(self) -> None:
        if self._executor_manager_thread is None:
            if self._start == "fork":  # before there are threads
                self._launch_processes()
            # Threads that cannot be started later would leave jobs waiting for ever.
            _start_and_end_threads()
        super()._start_executor_manager_thread()

    def abandon(self) -> int:
        """End the processes of a pool that could not be started as a whole; return their number."""
        for process in self.started:
            process.kill()
        for process in self.started:
            process.join()
        return len(self.started)

    def how_one_died(self) -> signal.Signals | None:
        """Return the signal that ended a worker of a broken pool; None if it is not known."""
        deadline = time.monotonic() + _REAPED_SECONDS
        wait_for_any([process.sentinel for process in self.started], _REAPED_SECONDS)
        while time.monotonic() < deadline:
            codes = [process.exitcode for process in self.started]
            # The others are ended with SIGTERM when the pool breaks.
            found = {-code for code in codes if code is not None} - {signal.SIGTERM}
            if found or None not in codes:
                return next((how for how in signal.Signals if how in found), None)
            time.sleep(0.01)  # another thread is about to note the code
        return None


def start_workers(
    jobs: int, start: Start, log: Path | None, first: Submission
) -> tuple[Workers, Future[Any]] | None:
    """Return a pool and the future of its first job; None if no worker can be started."""
    while True:
        try:
            pool = Workers(jobs, start, log)
        except (OSError, NotImplementedError):  # no /dev/shm, no semaphores, no pipes
            return None
        try:
            return pool, pool.submit(first.call, *first.args)
        except (OSError, RuntimeError):
            jobs = pool.abandon() // 2
            if not jobs:
                return None


def why_it_died(how: signal.Signals | None) -> str:
    """Return, in words, that a worker was killed, and what to do."""
    by = f" by {how.name}" if how is not None else ""
    cause = _NO_CAUSE if how is None else _CAUSES.get(how)
    killed = f"the worker that read it was killed{by}"
    return f"{killed}: {cause}" if cause else f"{killed}, twice"


def _start_and_end_threads() -> None:
    """Raise RuntimeError if the system allows no more threads."""
    go = threading.Event()
    threads = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=go.wait, daemon=True)
            thread.start()
            threads.append(thread)
    finally:
        go.set()
        for thread in threads:
            thread.join()


def _prepare_worker(log: str, forked: bool) -> None:  # noqa: FBT001
    """Redirect a worker's output to `log` and ignore Ctrl-C, which is for the main process."""
    if forked:
        _die_with_parent()
    else:
        threading.Thread(target=_outlive_no_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread per worker: the pool uses the CPUs. OpenBLAS reads this when numpy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # a full or missing disk costs the log, no result
        return
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent ends in any way.

    Forked workers hold both ends of their common queue, and would wait on it for ever.
    """
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _outlive_no_parent() -> None:
    """End this process when its parent process ends: the queue does not show that.

    `PR_SET_PDEATHSIG` would come too soon here. Linux sends it when the thread that spawned the
    worker ends, which may be long before the program does.
    """
    parent = parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
