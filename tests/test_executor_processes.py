"""Workers that die, at once or twice, and those that the system does not let start."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.errors import CorruptFile, WorkerDied
from ckptdiff.executor import WorkerPool
from tests.support.jobs import die, die_as_it_starts, double, fail
from tests.support.patience import PATIENCE
from tests.support.program import until

if TYPE_CHECKING:
    from pathlib import Path


def assert_no_children() -> None:
    assert until(lambda: multiprocessing.active_children() == [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (signal.SIGBUS, "by SIGBUS: a file shrank"),
        (signal.SIGKILL, "by SIGKILL: memory ran out"),
        (signal.SIGXCPU, r"by SIGXCPU: .*ulimit -t"),
        (signal.SIGSEGV, "by SIGSEGV, twice"),
        (signal.SIGRTMIN + 1, "killed: a file shrank meanwhile, or memory"),
    ],
)
def test_a_death_is_told_with_what_most_likely_caused_it(how: int, words: str) -> None:
    with WorkerPool(1) as pool, pytest.raises(WorkerDied, match=words):
        pool.submit(die, int(how)).result(PATIENCE)


@pytest.mark.slow
def test_workers_that_die_as_they_start_are_not_tried_for_each_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "starts"
    monkeypatch.setattr("ckptdiff.system.processes._prepare_worker", die_as_it_starts)
    with WorkerPool(2, log=log) as pool:
        for _ in range(2):
            jobs = [pool.submit(double, n) for n in range(10)]
            for job in jobs:
                assert "as soon as they are started" in str(job.exception(PATIENCE))
                assert isinstance(job.exception(), WorkerDied)
    assert len(log.read_bytes()) <= 5  # two pools of two, and one that is tried alone
    assert_no_children()


def refuse(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, allowed: int
) -> None:
    """Have a function raise an error once it was called so many times."""
    real, left = getattr(owner, name), iter(range(allowed))

    def refused(*args: Any) -> Any:
        if next(left, None) is None:
            raise error
        return real(*args)

    monkeypatch.setattr(owner, name, refused)


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_there_are_as_many_workers_as_can_be_started(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    error = BlockingIOError(11, "no more processes")
    with WorkerPool(3) as pool:
        refuse(monkeypatch, ProcessPoolExecutor, "_spawn_process", error, allowed)
        jobs = [pool.submit(double, n) for n in range(9)]
        assert [job.result(PATIENCE) for job in jobs] == list(range(0, 18, 2))
        assert len(multiprocessing.active_children()) == allowed
        assert isinstance(pool.submit(fail, "broken").exception(PATIENCE), CorruptFile)
    assert_no_children()


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_jobs_wait_for_no_thread_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    error = RuntimeError("can't start new thread")
    with WorkerPool(2) as pool:
        refuse(monkeypatch, threading, "_start_new_thread", error, allowed)
        jobs = [pool.submit(double, n) for n in range(4)]
        assert [job.result(PATIENCE) for job in jobs] == [0, 2, 4, 6]
        monkeypatch.undo()
    assert_no_children()


@pytest.mark.slow
def test_a_job_that_killed_its_worker_is_not_run_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkerPool(1) as pool:
        assert pool.submit(double, 1).result(PATIENCE) == 2
        deadly = pool.submit(die, 9)
        monkeypatch.setattr("ckptdiff.executor.start_workers", lambda *_: None)
        with pytest.raises(WorkerDied):
            deadly.result(PATIENCE)
