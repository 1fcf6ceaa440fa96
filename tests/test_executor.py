"""Workers may die, files may shrink, users may leave: what else there is goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from operator import neg
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.comparison.run import diff
from ckptdiff.errors import CorruptFile, WorkerDied
from ckptdiff.executor import InlineExecutor, JobsUnderWay, WorkerPool, available_cpus
from tests.support.jobs import (
    Deadly,
    die,
    die_once,
    double,
    environment,
    fail,
    print_something,
    read_while_it_shrinks,
    touch,
    wait_for,
)
from tests.support.pace import pace
from tests.support.pairs import (
    assert_alike,
    compare,
    noise,
    odd_models,
    open_pair,
    pair,
    set_sizes,
    sparse,
)
from tests.support.patience import PATIENCE
from tests.support.program import group, processor_seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from ckptdiff.results import TensorDiff


pytestmark = pytest.mark.mostly_slow(one_in=3)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Return a pool of two, and see that none of its processes is left behind."""
    with WorkerPool(2) as made:
        yield made
    assert_no_children()


def assert_no_children() -> None:
    assert until(lambda: multiprocessing.active_children() == [])


def test_jobs_run_in_other_processes(pool: WorkerPool) -> None:
    assert [f.result() for f in [pool.submit(double, n) for n in range(20)]] == list(
        range(0, 40, 2)
    )
    pid, threads, on_interrupt = pool.submit(environment).result()
    assert pid != os.getpid()
    assert threads == "1"
    assert on_interrupt == signal.SIG_IGN


def test_what_a_job_raises_is_handed_on(pool: WorkerPool) -> None:
    with pytest.raises(CorruptFile, match=r"model\.pt: broken"):
        pool.submit(fail, "model.pt: broken").result()


@pytest.mark.mostly_slow(one_in=2)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_loses_its_own_job_alone(pool: WorkerPool, how: int) -> None:
    for _ in range(3):
        before = [pool.submit(double, n) for n in range(10)]
        deadly = pool.submit(die, int(how))
        after = [pool.submit(double, n) for n in range(10, 20)]
        assert [f.result(PATIENCE) for f in before + after] == list(range(0, 40, 2))
        with pytest.raises(WorkerDied, match="killed"):
            deadly.result(PATIENCE)


@pytest.mark.slow
def test_several_deadly_jobs_at_once_are_told_apart(pool: WorkerPool) -> None:
    jobs = {n: pool.submit(*((die, 9) if n % 4 == 1 else (double, n))) for n in range(12)}
    for n, future in jobs.items():
        if n % 4 == 1:
            assert isinstance(future.exception(PATIENCE), WorkerDied)
        else:
            assert future.result(PATIENCE) == 2 * n


def test_a_job_that_was_only_beside_a_deadly_one_is_run_again(
    pool: WorkerPool, tmp_path: Path
) -> None:
    assert pool.submit(die_once, str(tmp_path / "marker")).result(PATIENCE) == 7


def test_a_mapped_file_that_shrinks_kills_no_more_than_its_job(
    pool: WorkerPool, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 20))
    shrunk = pool.submit(read_while_it_shrinks, str(file), 1 << 20)
    others = [pool.submit(double, n) for n in range(10)]
    assert [f.result(PATIENCE) for f in others] == list(range(0, 20, 2))
    # The worker died; the second try sees the shorter file before it reads.
    assert isinstance(shrunk.exception(PATIENCE), CorruptFile)


def test_a_job_that_waits_can_be_cancelled(pool: WorkerPool, tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = [pool.submit(wait_for, str(go)) for _ in range(6)]
    waiting = [pool.submit(double, n) for n in range(20)]
    assert waiting[-1].cancel()
    go.touch()
    with pytest.raises(CancelledError):
        waiting[-1].result(PATIENCE)
    assert [f.result(PATIENCE) for f in waiting[:-1]] == list(range(0, 38, 2))
    wait(running)


def test_a_job_that_was_cancelled_does_not_run(pool: WorkerPool, tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = [pool.submit(wait_for, str(go)) for _ in range(4)]
    waiting = [pool.submit(touch, str(tmp_path / str(n))) for n in range(20)]
    assert sum(job.cancel() for job in waiting) > 15
    go.touch()
    wait([*running, pool.submit(double, 1)])
    # What already lies in the workers' queue may run: one more than there are workers.
    assert len(set(tmp_path.iterdir()) - {go}) <= 3


def test_shutting_down_cancels_what_waits_and_refuses_what_comes() -> None:
    pool = WorkerPool(1)
    # Two minutes of sleep, of which a few seconds may pass before this process has its turn.
    jobs = [pool.submit(time.sleep, 0.1) for _ in range(1200)]
    jobs[0].result(PATIENCE)
    pool.shutdown(wait=True, cancel_futures=True)
    assert sum(job.cancelled() for job in jobs) > 600
    assert all(job.done() for job in jobs)
    with pytest.raises(RuntimeError):
        pool.submit(double, 1)
    assert_no_children()


def test_a_pool_that_is_killed_does_not_wait_for_its_jobs(tmp_path: Path) -> None:
    pool = WorkerPool(2)
    # Jobs that end when their workers do, and not before.
    jobs = [pool.submit(wait_for, str(tmp_path / "never")) for _ in range(4)]
    assert until(lambda: len(multiprocessing.active_children()) == 2)
    pool.kill()
    done, still_open = wait(jobs, timeout=PATIENCE)
    assert not still_open
    assert all(job.cancelled() or job.exception() for job in done)
    with pytest.raises(RuntimeError):
        pool.submit(double, 1)
    assert_no_children()


def test_a_pool_that_breaks_while_it_adds_a_worker_is_replaced(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.submit(double, 3).result(PATIENCE) == 6
    whole = pool._pool
    assert whole is not None
    submit = ProcessPoolExecutor.submit
    troubles = [OSError("handle is closed"), BrokenProcessPool()]

    def troubled(self: ProcessPoolExecutor, /, *call: Any) -> Future[Any]:
        if troubles:
            raise troubles.pop(0)
        return submit(self, *call)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", troubled)
    assert pool.submit(double, 4).result(PATIENCE) == 8
    assert troubles == []
    whole.shutdown()  # one that really broke has no processes left


def test_shutting_down_while_workers_die_ends(pool: WorkerPool) -> None:
    jobs = [pool.submit(die, 9) for _ in range(4)]
    pool.shutdown(wait=True, cancel_futures=True)
    done, still_open = wait(jobs, timeout=PATIENCE)
    assert not still_open
    assert len(done) == 4


@pytest.mark.slow
def test_output_of_workers_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    with WorkerPool(1, log=log) as pool:
        pool.submit(print_something).result(PATIENCE)
    assert log.read_text() == "out of a worker\ntrouble of a worker\n"
    assert capfd.readouterr() == ("", "")


def test_an_inline_job_runs_at_once_and_keeps_what_it_raises() -> None:
    executor = InlineExecutor()
    assert executor.submit(double, 4).result() == 8
    assert isinstance(executor.submit(fail, "x").exception(), CorruptFile)


def test_the_cpus_that_may_be_used_are_counted() -> None:
    assert available_cpus() == len(os.sched_getaffinity(0))
    with WorkerPool() as pool:
        assert pool.jobs == available_cpus()


# Comparisons in a pool


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_number_of_jobs_has_no_influence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    files = odd_models(tmp_path)
    wanted = compare(*files)
    set_sizes(monkeypatch, 999, 3)
    with WorkerPool(jobs) as pool:
        assert_alike(compare(*files, pool), wanted)
    assert_no_children()


@pytest.mark.slow
def test_leaving_a_comparison_is_quick_and_leaves_no_process(tmp_path: Path) -> None:
    # Holes: 500 GB that no disk holds, and minutes of work.
    big = {f"w{n}": (1 << 14, 1 << 13) for n in range(1000)}
    files = [sparse(tmp_path / side, big) for side in "ab"]
    a, b = open_pair(*files)
    with WorkerPool(2) as pool:
        results = diff(a, b, pool)
        next(results)
        before = processor_seconds()
        results.close()
        pool.shutdown(wait=True, cancel_futures=True)
    assert_no_children()
    assert processor_seconds() - before < 13_000 * pace()


class Counting(WorkerPool):
    """Tells how many jobs it was given, and takes its time, so that the end is never near."""

    submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        time.sleep(0.005)
        future = super().submit(fn, *args, **kwargs)
        self.submitted += 1
        return future


@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize("results", [0, 1, 5])
def test_a_pool_that_is_shut_down_ends_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: int
) -> None:
    """Whoever leaves before the workers are up, or in the middle, is not kept waiting."""
    set_sizes(monkeypatch, 32 << 20, 1)
    tensors = {f"w{n:03d}": torch.ones(n + 1) for n in range(400)}
    a, b = open_pair(*pair(tmp_path, tensors, tensors))
    pool = Counting(4)
    found: list[TensorDiff] = []
    thread = threading.Thread(target=lambda: found.extend(diff(a, b, pool)), daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while pool.submitted < 8 + results and time.monotonic() < deadline:
        time.sleep(0.001)
    pool.shutdown(wait=True, cancel_futures=True)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(found) < 400
    assert {result.status for result in found} <= {"same"}
    assert_no_children()


def test_a_file_cut_off_under_a_comparison_is_an_error_of_what_was_not_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    tensors = {f"w{n:02d}": noise(40, 100, seed=n) for n in range(40)}
    a, b = open_pair(*pair(tmp_path, tensors, tensors))
    file = tmp_path / "b/model.safetensors"
    found: dict[str, TensorDiff] = {}
    with WorkerPool(2) as pool:
        for result in diff(a, b, pool):
            if not found:
                os.truncate(file, file.stat().st_size - 16000 * 10 - 4000)
            found[result.name] = result
    assert set(found) == set(tensors)
    errors = {name for name, result in found.items() if result.status == "error"}
    assert errors >= {f"w{n:02d}" for n in range(29, 40)}
    # What was read before is kept. Of what lies before the cut nothing is known afterwards: it may
    # have been cut to be written anew.
    assert next(iter(found.values())).status == "same"
    assert {r.status for r in found.values()} == {"same", "error"}
    assert all(str(file) in str(found[name].error) for name in errors)
    assert all(found[name].numbers is None for name in errors)


@pytest.mark.slow
def test_a_worker_that_dies_under_a_comparison_is_an_error_of_one_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch dies as a whole, and is then tried one by one."""
    tensors = {f"w{n:02d}": noise(8, 8, seed=n) for n in range(30)}
    a, b = open_pair(*pair(tmp_path, tensors, tensors))
    deadly = a.tensors["w13"].pieces[0].ref.offset
    monkeypatch.setattr("ckptdiff.comparison.run.run_parts", Deadly(deadly))
    with WorkerPool(2) as pool:
        found = {result.name: result for result in diff(a, b, pool)}
    assert {name: r.status for name, r in found.items() if r.status != "same"} == {"w13": "error"}
    assert "killed" in str(found["w13"].error)
    assert len(found) == 30


ORPHANS = """
import sys, time
from ckptdiff.executor import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(2, start=sys.argv[1])
    jobs = [pool.submit(time.sleep, 0.01) for _ in range(8)]
    [job.result() for job in jobs]
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("begin", ["spawn", "fork"])
def test_workers_end_with_the_program_that_started_them(tmp_path: Path, begin: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(ORPHANS)
    process = subprocess.Popen(
        [sys.executable, script, begin, str(PATIENCE)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(group(process.pid)) >= 3
    process.kill()
    process.wait(PATIENCE)
    gone = until(lambda: group(process.pid) == [])
    for pid in group(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.stdout.close()
    assert gone


# Jobs under way


class Held(Executor):
    """Finishes nothing by itself."""

    jobs = 3

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def numbered(executor: Executor, drawn: list[int]) -> Generator[tuple[int, Any], None, None]:
    """Have the numbers up to 100 negated, and yield each when it is done."""
    under_way: JobsUnderWay[int] = JobsUnderWay(executor)
    numbers = iter(range(100))

    def fill() -> tuple[()]:
        while under_way.has_room and (number := next(numbers, None)) is not None:
            drawn.append(number)
            under_way.submit(number, neg, number)
        return ()

    def receive(number: int, done: Future[Any]) -> Iterator[tuple[int, Any]]:
        yield number, done.result()

    return under_way.results(fill, receive)


def test_jobs_are_drawn_two_for_each_worker_and_another_for_each_that_is_done() -> None:
    executor, drawn = Held(), list[int]()
    done = numbered(executor, drawn)
    threading.Timer(0.05, lambda: executor.futures[4].set_result("four")).start()
    assert next(done) == (4, "four")
    assert drawn == [0, 1, 2, 3, 4, 5]
    executor.futures[0].set_result("nought")
    assert next(done) == (0, "nought")
    assert drawn == [0, 1, 2, 3, 4, 5, 6]


def test_closing_cancels_the_jobs_under_way() -> None:
    executor = Held()
    done = numbered(executor, [])
    threading.Timer(0.05, lambda: executor.futures[1].set_result(None)).start()
    next(done)
    done.close()
    assert [future.cancelled() for future in executor.futures] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]


def test_all_jobs_come_to_their_end() -> None:
    done = list(numbered(InlineExecutor(), []))
    assert sorted(done) == [(number, -number) for number in range(100)]
