"""Where jobs run: in this process for tests, else in worker processes that may die."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, InvalidStateError, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for_any
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ckptdiff.errors import WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

J = TypeVar("J")  # what the caller knows a job by
R = TypeVar("R")  # what comes of it


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InlineExecutor(Executor):
    """Runs a job in `submit` itself."""

    jobs = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 -- an executor hands on whatever a job raises
            future.set_exception(error)
        return future


class JobsUnderWay(Generic[J]):
    """Jobs of an executor, twice as many as it has workers: none of them waits for its next job.

    Each is submitted together with what its caller knows it by.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._limit = 2 * getattr(executor, "jobs", available_cpus())
        self._jobs: dict[Future[Any], J] = {}

    @property
    def has_room(self) -> bool:
        return len(self._jobs) < self._limit

    def submit(self, job: J, call: Callable[..., Any], *args: Any) -> None:
        """Submit a job, whether there is room or not; raises what the executor raises."""
        self._jobs[self._executor.submit(call, *args)] = job

    def results(
        self,
        fill: Callable[[], Iterable[R]],
        receive: Callable[[J, Future[Any]], Iterable[R]],
    ) -> Generator[R, None, None]:
        """Yield what `fill` and `receive` yield, until nothing is under way any more.

        `fill` submits jobs while there is room; `receive` is given each as soon as it is done, and
        may submit others. Closing the generator cancels what has not started.
        """
        try:
            while True:
                yield from fill()
                if not self._jobs:
                    return
                done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from receive(self._jobs.pop(future), future)
        finally:
            self._cancel()

    def stop(self) -> None:
        """Cancel what has not started, and wait for the rest."""
        self._cancel()
        wait(self._jobs)

    def _cancel(self) -> None:
        for future in self._jobs:
            future.cancel()


class _Job(Future[Any]):
    """What the caller of a pool holds; cancelling it cancels the pool's own future too."""

    inner: Future[Any] | None = None

    def cancel(self) -> bool:
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        # Only now do `wait` and `as_completed` take it for done.
        self.set_running_or_notify_cancel()
        if self.inner is not None:
            self.inner.cancel()
        return True


@dataclass(frozen=True, slots=True)
class _Submission:
    future: _Job
    call: Callable[..., Any]
    args: tuple[Any, ...]


class WorkerPool(Executor):
    """A pool of worker processes that outlives them.

    A worker that is killed (its file shrank under the mapping, memory ran out) takes its whole
    `ProcessPoolExecutor` along. Here every job that was under way is run once more, alone: the one
    that kills its worker again ends in WorkerDied, the others have their results.
    """

    def __init__(
        self,
        jobs: int | None = None,
        *,
        start: Literal["spawn", "fork"] = "spawn",
        log: Path | None = None,
    ) -> None:
        """Make a pool of `jobs` workers (by default one for each CPU that may be used).

        `fork` starts ten times faster and is right only in a program without threads. What workers
        print goes to `log`: they share the terminal with the screen.
        """
        self.jobs = jobs or available_cpus()
        self._start = start
        self._log = log
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._suspects: list[_Submission] = []
        self._trial: threading.Thread | None = None
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if kwargs:
            raise TypeError("jobs take positional arguments only")
        task = _Submission(_Job(), fn, args)
        self._launch(task)
        return task.future

    def warm(self) -> None:
        """Start the workers and let them load what jobs need; does not wait for them."""
        for _ in range(self.jobs):
            self.submit(_load_kernels)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        with self._lock:
            self._closed = True
            pool, trial = self._pool, self._trial
        if pool is not None:
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait and trial is not None and trial is not threading.current_thread():
            trial.join()

    def _new_pool(self, jobs: int) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            jobs,
            mp_context=get_context(self._start),
            initializer=_prepare_worker,
            initargs=(str(self._log) if self._log else os.devnull, self._start == "fork"),
        )
        # From the second on there is a thread that manages the first: no more forking.
        self._start = "spawn"
        return pool

    def _launch(self, task: _Submission) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            if self._pool is None:
                self._pool = self._new_pool(self.jobs)
            pool = self._pool
        try:
            inner = task.future.inner = _submit(pool, task)
        except BrokenProcessPool:
            self._suspect(task, pool)
        else:
            inner.add_done_callback(lambda done: self._finish(task, pool, done))

    def _finish(self, task: _Submission, pool: ProcessPoolExecutor, done: Future[Any]) -> None:
        if done.cancelled():
            task.future.cancel()
        elif isinstance(done.exception(), BrokenProcessPool):
            self._suspect(task, pool)
        else:
            _settle(task.future, done)

    def _suspect(self, task: _Submission, pool: ProcessPoolExecutor) -> None:
        """Put a job that was under way when the pool broke aside, for a run of its own."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
            self._suspects.append(task)
            if self._trial is None:
                self._trial = threading.Thread(target=self._try_suspects, daemon=True)
                self._trial.start()

    def _try_suspects(self) -> None:
        alone: ProcessPoolExecutor | None = None
        while True:
            with self._lock:
                if not self._suspects or self._closed:
                    self._trial = None
                    left, self._suspects = self._suspects, []
                    break
                task = self._suspects.pop(0)
            if task.future.cancelled():
                continue
            if alone is None:
                alone = self._new_pool(1)
            done = _submit(alone, task)
            if isinstance(done.exception(), BrokenProcessPool):
                alone = None
                died = WorkerDied(
                    "the worker that read it was killed: a file shrank meanwhile, "
                    "or memory ran out. See that nothing writes to the checkpoint, and try again"
                )
                _settle(task.future, died)
            else:
                _settle(task.future, done)
        for task in left:
            task.future.cancel()
        if alone is not None:
            alone.shutdown(wait=False)


def _submit(pool: ProcessPoolExecutor, task: _Submission) -> Future[Any]:
    try:
        return pool.submit(task.call, *task.args)
    except OSError:
        # "handle is closed": it broke while it was adding a worker. Asked again, it says so.
        return pool.submit(task.call, *task.args)


def _settle(future: Future[Any], outcome: Future[Any] | BaseException) -> None:
    """Hand an outcome to the caller's future, unless the caller cancelled it."""
    error = outcome if isinstance(outcome, BaseException) else outcome.exception()
    try:
        if error is not None:
            future.set_exception(error)
        else:
            assert isinstance(outcome, Future)
            future.set_result(outcome.result())
    except InvalidStateError:
        pass


def _load_kernels() -> None:
    import ckptdiff.kernels.compare  # noqa: F401


def _prepare_worker(log: str, forked: bool) -> None:  # noqa: FBT001
    """Keep a worker's output off the terminal and leave Ctrl-C to the program that started it."""
    if forked:
        _die_with_parent()
    else:
        threading.Thread(target=_outlive_no_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread a worker: the pool is what uses the CPUs. Read when numpy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _die_with_parent() -> None:
    """Have Linux kill this process when the one that forked it is gone, however it went.

    Forked workers hold both ends of their common queue and would wait for ever.
    """
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _outlive_no_parent() -> None:
    """End this process when the one that spawned it is gone: its queue would never tell.

    A spawned worker's parent may be a thread that ends long before the program does, so the death
    signal of `_die_with_parent` would come too soon.
    """
    parent = parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
