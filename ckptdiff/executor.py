"""Executors: one that runs jobs in this process, and a pool that outlives killed workers."""

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

JobKey = TypeVar("JobKey")  # by which the caller knows a job
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InlineExecutor(Executor):
    """Runs each job in the call of `submit`, in this process."""

    jobs = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 -- the future raises whatever a job raises
            future.set_exception(error)
        return future


class JobsUnderWay(Generic[JobKey]):
    """The jobs of one caller in an executor: two per worker, so that no worker waits for the next.

    Each is submitted with a key, which comes back with its result.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._limit = 2 * getattr(executor, "jobs", available_cpus())
        self._jobs: dict[Future[Any], JobKey] = {}

    @property
    def has_room(self) -> bool:
        """Whether there are fewer than two jobs per worker."""
        return len(self._jobs) < self._limit

    def submit(self, key: JobKey, call: Callable[..., Any], *args: Any) -> None:
        """Submit `call(*args)` with a key, even without room. Raises what the executor raises."""
        self._jobs[self._executor.submit(call, *args)] = key

    def results(
        self,
        fill: Callable[[], Iterable[Result]],
        receive: Callable[[JobKey, Future[Any]], Iterable[Result]],
    ) -> Generator[Result, None, None]:
        """Yield what `fill` and `receive` yield, until no job is under way.

        `fill` submits jobs while there is room. `receive` takes the key and the future of each job
        that is done, and may submit others. Closing the generator cancels jobs that have not
        started.
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
        """Cancel jobs that have not started, and wait for those that have."""
        self._cancel()
        wait(self._jobs)

    def _cancel(self) -> None:
        for future in self._jobs:
            future.cancel()


class _OuterFuture(Future[Any]):
    """The future that a caller of WorkerPool gets. Cancelling it cancels the inner one too.

    It outlives the future of the process pool: a job may be run twice.
    """

    inner: Future[Any] | None = None

    def cancel(self) -> bool:
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        # Until then `wait` and `as_completed` do not count it as done.
        self.set_running_or_notify_cancel()
        if self.inner is not None:
            self.inner.cancel()
        return True


@dataclass(frozen=True, slots=True)
class _Submission:
    """A job as it was submitted, to be submitted again if its pool breaks."""

    future: _OuterFuture
    call: Callable[..., Any]
    args: tuple[Any, ...]


class WorkerPool(Executor):
    """A pool of worker processes that outlives a killed worker.

    A worker is killed when a file shrinks under its mapping or memory runs out, and that breaks its
    whole `ProcessPoolExecutor`. Every job that was under way is then run again, alone. A job that
    kills its worker a second time raises WorkerDied; the others have their results.
    """

    def __init__(
        self,
        jobs: int | None = None,
        *,
        start: Literal["spawn", "fork"] = "spawn",
        log: Path | None = None,
    ) -> None:
        """Make a pool of `jobs` workers, by default one per available CPU.

        `fork` starts ten times faster, and is safe only in a program without threads. Output of
        workers goes to `log`, since the screen has the terminal.
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
        task = _Submission(_OuterFuture(), fn, args)
        self._launch(task)
        return task.future

    def warm(self) -> None:
        """Start the workers and have them import the kernels. Does not wait."""
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

    def kill(self) -> None:
        """End the workers, whatever they are doing; no job can be submitted any more."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
        self.shutdown(cancel_futures=True)

    def _new_pool(self, jobs: int) -> ProcessPoolExecutor:
        """Return a process pool; workers start when jobs are submitted."""
        pool = ProcessPoolExecutor(
            jobs,
            mp_context=get_context(self._start),
            initializer=_prepare_worker,
            initargs=(str(self._log) if self._log else os.devnull, self._start == "fork"),
        )
        # The first pool has a manager thread: from here on, forking is not safe.
        self._start = "spawn"
        return pool

    def _launch(self, task: _Submission) -> None:
        """Submit a job to the pool, or to a fresh one if the last one broke."""
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
        """Pass on the outcome of a job, unless its pool broke."""
        if done.cancelled():
            task.future.cancel()
        elif isinstance(done.exception(), BrokenProcessPool):
            self._suspect(task, pool)
        else:
            _settle(task.future, done)

    def _suspect(self, task: _Submission, pool: ProcessPoolExecutor) -> None:
        """Queue a job that was under way when the pool broke, to be run again alone."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
            self._suspects.append(task)
            if self._trial is None:
                self._trial = threading.Thread(target=self._try_suspects, daemon=True)
                self._trial.start()

    def _try_suspects(self) -> None:
        """Run the suspects one by one in a pool of one worker, until none is left."""
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
    """Submit a job to a pool. Raises BrokenProcessPool."""
    try:
        return pool.submit(task.call, *task.args)
    except OSError:
        # "handle is closed": the pool broke while it added a worker. A second call says so.
        return pool.submit(task.call, *task.args)


def _settle(future: Future[Any], outcome: Future[Any] | BaseException) -> None:
    """Set a result or an error in the caller's future, unless the caller has cancelled it."""
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
    """Redirect a worker's output to `log` and ignore Ctrl-C, which is for the main process."""
    if forked:
        _die_with_parent()
    else:
        threading.Thread(target=_outlive_no_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread per worker: the pool uses the CPUs. OpenBLAS reads this when numpy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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
