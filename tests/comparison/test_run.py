"""How the work of a comparison is cut, ordered and handed back: none of it shows in the figures."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.comparison.run import diff, pair_names
from ckptdiff.executor import InlineExecutor
from tests.support.pairs import (
    assert_alike,
    compare,
    edit_rank,
    noise,
    odd_models,
    open_pair,
    pair,
    rank_file,
    set_sizes,
)
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.pairs import Comparison

    Make = Callable[..., Path]


pytestmark = pytest.mark.mostly_slow(one_in=3)


@pytest.mark.mostly_slow(one_in=10)
@pytest.mark.parametrize("batch_parts", [1, 3])
@pytest.mark.parametrize("part_bytes", [1, 100, 999, 4096, 1 << 16])
def test_the_size_of_parts_and_batches_has_no_influence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int, batch_parts: int
) -> None:
    if part_bytes == 1:  # an element each: a few will do
        tensors = {"w": noise(7, 5), "v": noise(3), "e": noise(2, 2)}
        files = pair(tmp_path, tensors, {**tensors, "w": noise(7, 5, seed=1), "v": -noise(3)})
    else:
        files = odd_models(tmp_path)
    wanted = compare(*files)
    set_sizes(monkeypatch, part_bytes, batch_parts)
    assert_alike(compare(*files), wanted)


@pytest.mark.parametrize("part_bytes", [64, 500])
def test_the_size_of_parts_has_no_influence_on_shards_copies_and_padding(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, monkeypatch: pytest.MonkeyPatch,
    part_bytes: int,
) -> None:  # fmt: skip
    model = {"tied": True}
    megatron = copy_of(tiny_megatron(model=model, tp=2, pp=2, pad="zeros"))

    def drift(state: dict[str, Any]) -> None:
        state["model"]["output_layer.weight"][::7] += 1
        state["model"]["decoder.layers.0.input_layernorm.weight"][5] += 1

    edit_rank(rank_file(megatron, "01_001"), drift)
    wanted = compare(tiny_hf(**model), megatron)
    assert set(wanted.statuses.values()) == {"differ"}
    set_sizes(monkeypatch, part_bytes, 2)
    found = compare(tiny_hf(**model), megatron)
    assert found.statuses == wanted.statuses
    for name in wanted.statuses:
        assert notes(found, name) == notes(wanted, name)


def notes(comparison: Comparison, name: str) -> dict[str, int]:
    """Return how many elements drifted, over all notes that speak of one copy."""
    total: dict[str, int] = {}
    for note in str(comparison[name].note).split("; "):
        text, _, count = note.removesuffix(" elements").rpartition(" in ")
        key, number = (text, int(count)) if count.isdecimal() else (note, 0)
        total[key] = total.get(key, 0) + number
    return total


# The order of results


class Recording(InlineExecutor):
    """Runs at once, and remembers the number of elements of each tensor it was given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.seen += [prod(part.shape) for part in args[0]]
        return super().submit(fn, *args, **kwargs)


def lengths(tmp_path: Path, count: int) -> tuple[Path, Path]:
    """Return a pair whose tensor `wNN` is a vector of NN + 1 elements."""
    tensors = {f"w{n:02d}": torch.ones(n + 1) for n in range(count)}
    return pair(tmp_path, tensors, tensors)


def test_work_goes_on_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    executor = Recording()
    list(diff(*open_pair(*lengths(tmp_path, 12)), executor))
    assert executor.seen == list(range(1, 13))


def test_names_that_are_asked_for_come_first_whenever_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    executor = Recording()
    wanted = ["w11", "w09", "unknown"]
    found = []
    for result in diff(*open_pair(*lengths(tmp_path, 12)), executor, first=lambda: wanted):
        found.append(result.name)
        if len(found) == 4:
            wanted[:] = ["w10", found[0]]
            under_way = len(executor.seen)
    assert executor.seen[:2] == [12, 10]
    assert executor.seen[under_way] == 11
    assert sorted(found) == [f"w{n:02d}" for n in range(12)]


def test_only_the_names_that_are_given_are_compared(tmp_path: Path) -> None:
    a, b = open_pair(*lengths(tmp_path, 6))
    names = ["w05", "w01"]
    assert {r.name for r in diff(a, b, InlineExecutor(), names=names)} == set(names)
    assert list(diff(a, b, InlineExecutor(), names=[])) == []


def test_pairs_of_names_are_those_of_either_side(tmp_path: Path) -> None:
    a, b = open_pair(*pair(tmp_path, {"x": noise(1), "y": noise(1)}, {"z": noise(1)}))
    assert pair_names(a, b) == ["x", "y", "z"]


class Stalling(ThreadPoolExecutor):
    """Holds the first job back until it is told to run it."""

    jobs = 8

    def __init__(self) -> None:
        super().__init__(4)
        self.released = threading.Event()
        self.submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        if self.submitted > 1:
            return super().submit(fn, *args, **kwargs)
        return super().submit(self._later, fn, *args)

    def _later(self, fn: Callable[..., Any], *args: Any) -> Any:
        assert self.released.wait(PATIENCE), "everything waits for the first job"
        return fn(*args)


def test_results_come_as_soon_as_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    found: list[str] = []
    with Stalling() as executor:
        for result in diff(*open_pair(*lengths(tmp_path, 12)), executor):
            found.append(result.name)
            if len(found) == 11:
                assert "w00" not in found
                executor.released.set()
    assert found[-1] == "w00"


def test_no_more_is_submitted_than_keeps_the_workers_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    results: Iterator[object]
    with Stalling() as executor:
        executor.jobs = 3
        results = diff(*open_pair(*lengths(tmp_path, 40)), executor)
        next(results)
        assert executor.submitted <= 7  # two for each of three workers, and one for what is done
        executor.released.set()


class Holding(Executor):
    """Runs the first job and holds on to the others."""

    jobs = 3

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if not self.futures:
            future.set_result(fn(*args, **kwargs))
        self.futures.append(future)
        return future


def test_leaving_a_comparison_cancels_what_has_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 32 << 20, 1)
    executor = Holding()
    results = diff(*open_pair(*lengths(tmp_path, 40)), executor)
    next(results)
    under_way = executor.futures[1:]
    assert len(under_way) >= 5
    results.close()
    assert all(future.cancelled() for future in under_way)


def test_what_needs_no_work_comes_without_an_executor(tmp_path: Path) -> None:
    a = {"x": torch.ones(2), "y": torch.ones(3)}
    b = {"y": torch.ones(4), "z": torch.ones(5)}
    left, right = open_pair(*pair(tmp_path, a, b))
    executor = Recording()
    found = {r.name: r.status for r in diff(left, right, executor)}
    assert found == {"x": "only_a", "y": "shape", "z": "only_b"}
    assert executor.seen == []


def test_bytes_of_results_are_those_that_were_read(tmp_path: Path) -> None:
    files = pair(tmp_path, {"w": noise(10, 10)}, {"w": noise(10, 10).bfloat16()})
    assert compare(*files)["w"].nbytes == 400 + 200
