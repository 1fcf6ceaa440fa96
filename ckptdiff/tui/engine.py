"""The seam between the screens and the engine: what they call, and how tests replace it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assemble import Assembled
    from ckptdiff.diff import Summary, TensorDiff
    from ckptdiff.tensors import Checkpoint


class Engine(Protocol):
    """Everything here may block, so screens call it in thread workers only."""

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint: ...

    def assemble(self, checkpoint: Checkpoint) -> Assembled: ...

    def pair(self, a: Checkpoint, b: Checkpoint) -> tuple[Assembled, Assembled, list[str]]: ...

    def diff(
        self,
        a: Assembled,
        b: Assembled,
        executor: Executor,
        names: Collection[str],
        first: Callable[[], Iterable[str]],
    ) -> Generator[TensorDiff, None, None]: ...

    def summarise(
        self, results: Mapping[str, TensorDiff], a: Assembled, b: Assembled
    ) -> Summary: ...

    def executor(self) -> Executor: ...


class LocalEngine:
    """The engine on this machine. Its modules are imported on first use, in the worker thread."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
        from ckptdiff.formats import open_checkpoint

        return open_checkpoint(path, progress=progress)

    def assemble(self, checkpoint: Checkpoint) -> Assembled:
        from ckptdiff.assemble import assemble

        return assemble(checkpoint)

    def pair(self, a: Checkpoint, b: Checkpoint) -> tuple[Assembled, Assembled, list[str]]:
        from ckptdiff.assemble import assemble_pair
        from ckptdiff.diff import pair_names

        side_a, side_b = assemble_pair(a, b)
        return side_a, side_b, list(pair_names(side_a, side_b))

    def diff(
        self,
        a: Assembled,
        b: Assembled,
        executor: Executor,
        names: Collection[str],
        first: Callable[[], Iterable[str]],
    ) -> Generator[TensorDiff, None, None]:
        from ckptdiff.diff import diff

        return diff(a, b, executor, names=names, first=first)

    def summarise(self, results: Mapping[str, TensorDiff], a: Assembled, b: Assembled) -> Summary:
        from ckptdiff.diff import summarise

        return summarise(results, a, b)

    def executor(self) -> Executor:
        from ckptdiff.executor import WorkerPool

        return WorkerPool(self._jobs)
