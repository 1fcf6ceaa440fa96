"""Executors: one that runs jobs in this process, and a pool that outlives killed workers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, InvalidStateError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ckptdiff.errors import WorkerDied
from ckptdiff.system.processes import SHORT_LIVED, start_workers, why_it_died

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from ckptdiff.system.processes import Start, Workers

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
class Submission:
    """A job as it was submitted, to be submitted again if its pool breaks."""

    future: _OuterFuture
    call: Callable[..., Any]
    args: tuple[Any, ...]


class WorkerPool(Executor):
    """A pool of worker processes that outlives a killed worker.

    A worker is killed when a file shrinks under its mapping or memory runs out, and that breaks its
    whole `ProcessPoolExecutor`. Every job that was under way is then run again, alone. A job that
    kills its worker a second time raises WorkerDied; the others have their results.

    Where the system allows fewer workers there are fewer, and where it allows none, as without
    /dev/shm, jobs run in this process, in the call of `submit`.
    """

    def __init__(
        self, jobs: int | None = None, *, start: Start = "spawn", log: Path | None = None
    ) -> None:
        """Make a pool of `jobs` workers, by default one per available CPU.

        `fork` starts ten times faster, and is safe only in a program without threads. Output of
        workers goes to `log`, since the screen has the terminal.
        """
        self.jobs = jobs or available_cpus()
        self._start = start
        self._log = log
        self._lock = threading.Lock()
        self._pool: Workers | None = None
        self._inline = False  # no worker can be started
        self._hopeless: str | None = None  # why no worker lives, in words
        self._suspects: list[Submission] = []
        self._trial: threading.Thread | None = None
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if kwargs:
            raise TypeError("jobs take positional arguments only")
        task = Submission(_OuterFuture(), fn, args)
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

    def _new_pool(self, jobs: int, first: Submission) -> tuple[Workers, Future[Any]] | None:
        """Return a process pool and the future of its first job; None if it cannot be started."""
        start: Start = self._start
        # The first pool has a manager thread: from here on, forking is not safe.
        self._start = "spawn"
        return start_workers(jobs, start, self._log, first)

    def _launch(self, task: Submission) -> None:
        """Submit a job to the pool, or to a fresh one if the last one broke."""
        inner: Future[Any] | None = None
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            pool, hopeless = self._pool, self._hopeless
            if pool is None and not self._inline and hopeless is None:
                made = self._new_pool(self.jobs, task)
                if made is None:
                    self._inline = True
                else:
                    pool, inner = made
                    self._pool = pool
        if hopeless is not None:
            _settle(task.future, WorkerDied(hopeless))
        elif pool is None:
            _settle(task.future, InlineExecutor().submit(task.call, *task.args))
        else:
            self._follow(task, pool, inner)

    def _follow(self, task: Submission, pool: Workers, inner: Future[Any] | None) -> None:
        """Pass on the outcome of a job in a pool; it is submitted unless `inner` is its future."""
        try:
            inner = task.future.inner = _submit(pool, task) if inner is None else inner
        except BrokenProcessPool:
            self._suspect(task, pool)
        else:
            inner.add_done_callback(lambda done: self._finish(task, pool, done))

    def _finish(self, task: Submission, pool: Workers, done: Future[Any]) -> None:
        """Pass on the outcome of a job, unless its pool broke."""
        if done.cancelled():
            task.future.cancel()
        elif isinstance(done.exception(), BrokenProcessPool):
            self._suspect(task, pool)
        else:
            _settle(task.future, done)

    def _suspect(self, task: Submission, pool: Workers) -> None:
        """Queue a job that was under way when the pool broke, to be run again alone."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
            self._suspects.append(task)
            if self._trial is not None:
                return
            self._trial = threading.Thread(target=self._try_suspects, daemon=True)
            try:
                self._trial.start()
            except RuntimeError:  # no thread can be started
                self._trial = threading.current_thread()
            else:
                return
        self._try_suspects()

    def _try_suspects(self) -> None:
        """Run the suspects one by one in a pool of one worker, until none is left."""
        alone: Workers | None = None
        while True:
            with self._lock:
                if not self._suspects or self._closed:
                    self._trial = None
                    left, self._suspects = self._suspects, []
                    break
                task = self._suspects.pop(0)
            if task.future.cancelled():
                continue
            if self._hopeless is None and alone is None:
                alone = self._living_worker()
            if alone is None:
                _settle(task.future, WorkerDied(str(self._hopeless)))
                continue
            done = _submit(alone, task)
            if isinstance(done.exception(), BrokenProcessPool):
                _settle(task.future, WorkerDied(why_it_died(alone.how_one_died())))
                alone = None
            else:
                _settle(task.future, done)
        for task in left:
            task.future.cancel()
        if alone is not None:
            alone.shutdown(wait=False)

    def _living_worker(self) -> Workers | None:
        """Return a pool of one worker that has done something; None if there is no such worker."""
        made = self._new_pool(1, Submission(_OuterFuture(), _load_kernels, ()))
        if made is not None and not isinstance(made[1].exception(), BrokenProcessPool):
            return made[0]
        how = None if made is None else made[0].how_one_died()
        self._hopeless = SHORT_LIVED.format(how=f" (by {how.name})" if how is not None else "")
        return None


def _submit(pool: Workers, task: Submission) -> Future[Any]:
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
