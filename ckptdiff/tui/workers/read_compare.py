"""Read the headers of both sides, and compare them."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.gc_pause import uncollected
from ckptdiff.results import TensorDiff
from ckptdiff.tui.messages import (
    CheckpointsOpened,
    ComparisonEnded,
    ComparisonStarted,
    HeadersRead,
    OptimizerRefused,
    ReadingFailed,
    ResultsArrived,
    RowsRead,
)
from ckptdiff.tui.model.inventory import take_inventory
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.cancellable import Stopped

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from textual.message import Message

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.result_cache import ResultCache
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.workers.engine import Engine

    Post = Callable[[Message], object]
    Results = deque[tuple[TensorDiff, float | None]]  # Unix time of a cached one

MANY_NAMES = 5000  # from here on, garbage collection would hold up key presses
SWITCH_SECONDS = 0.0005
PROGRESS_SECONDS = 0.2  # between two progress messages


@contextmanager
def without_blocking_the_screen() -> Iterator[None]:
    """Pause garbage collection and shorten the thread switch interval.

    For threads that make hundreds of thousands of lasting objects. A full collection over them, or
    a thread that keeps the interpreter for the default interval, would hold up key presses.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with uncollected():
            yield
    finally:
        sys.setswitchinterval(interval)


def read(
    job: int,
    engine: Engine,
    paths: Sequence[Path],
    opened: dict[Path, Checkpoint],
    *,
    optimizer: bool,
    adapter: Path | None = None,
    executor: Callable[[], Executor],
    post: Post,
    is_cancelled: Callable[[], bool],
) -> None:
    """Open one checkpoint or two, and post what is open while the rest is being read.

    First comes the first file of A, then A, then the pair. `opened` holds checkpoints that another
    screen has read. `optimizer` adds optimizer state, `adapter` is added to A's weights.
    """

    def read_side(side: Side, path: Path) -> Checkpoint:
        reported = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal reported
            if is_cancelled():
                raise Stopped
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS or done == total:
                reported = now
                post(HeadersRead(job, side, done, total))

        return opened.get(path) or engine.open(path, progress)

    def show_first_file(path: Path) -> None:
        first_file = None if path in opened else engine.open_first(path)
        if first_file is not None:
            part = engine.assemble(first_file)
            inventory = take_inventory([*part.tensors, *part.errors], part)
            post(CheckpointsOpened(job, inventory, part, None, complete=False, in_part=True))

    def rows_read(done: int, total: int) -> None:
        if is_cancelled():
            raise Stopped
        post(RowsRead(job, done, total))

    def optimizer_refused(error: CkptDiffError) -> None:
        post(OptimizerRefused(job, error.with_hint(KEYS)))

    try:
        with without_blocking_the_screen():
            show_first_file(paths[0])
            a = engine.assemble(read_side("a", paths[0]))
            complete = len(paths) == 1
            inventory = take_inventory([*a.tensors, *a.errors], a)
            post(CheckpointsOpened(job, inventory, a, None, complete))
            if not complete:
                b = read_side("b", paths[1])
                third = engine.open(adapter, lambda *_: None) if adapter is not None else None
                config: tuple[ConfigDiff, ...] | None = None
                for pair in engine.pair(
                    a, b, executor,
                    optimizer=optimizer, adapter=third, matching=rows_read,
                    refused=optimizer_refused,
                ):  # fmt: skip
                    if config is None:
                        config = tuple(compare_configs(pair.a, pair.b))
                    inventory = take_inventory(pair.names, pair.a, pair.b)
                    post(
                        CheckpointsOpened(
                            job, inventory, pair.a, pair.b, pair.is_complete, config=config
                        )
                    )
            if len(inventory.names) > MANY_NAMES:
                gc.freeze()
    except CkptDiffError as error:
        post(ReadingFailed(job, error.with_hint(KEYS)))
    except Stopped:
        pass


def _result_cache(
    folder: Path, a: Assembled, b: Assembled, tolerance: str, *, optimizer: bool
) -> ResultCache:
    """Return the cache of a pair's results; those with more than weights have another one."""
    from ckptdiff.result_cache import ResultCache

    checkpoint_a, checkpoint_b = a.checkpoint, b.checkpoint
    if optimizer:
        # Optimizer state is in files that `open_checkpoint` does not list, and may change alone.
        checkpoint_a, checkpoint_b = (
            replace(
                side.checkpoint,
                files=tuple({p.ref.file for t in side.tensors.values() for p in t.pieces}),
            )
            for side in (a, b)
        )
        tolerance += " optimizer"
    if a.merging is not None:
        checkpoint_a = replace(checkpoint_a, files=(*checkpoint_a.files, *a.merging.files))
        tolerance += f" {a.merging.root} {a.merging.factors}"
    return ResultCache(folder, checkpoint_a, checkpoint_b, tolerance)


def compare(
    job: int,
    engine: Engine,
    a: Assembled,
    b: Assembled,
    names: Sequence[str],
    *,
    results: Results,
    history: Path | None,
    fresh: bool,
    tolerance: str,
    optimizer: bool,
    executor: Callable[[], Executor],
    first: Callable[[], Iterable[str]],
    post: Post,
    is_cancelled: Callable[[], bool],
) -> None:
    """Compare a pair, and append each result to `results`.

    Cached results are in the folder `history`: they are used, or with `fresh` removed. The names
    that `first` returns are compared before others.
    """
    from ckptdiff.comparison.pipeline import CheckpointPair

    known: dict[str, TensorDiff] = {}
    try:
        cache = (
            None
            if history is None
            else _result_cache(history, a, b, tolerance, optimizer=optimizer)
        )
    except OSError:
        cache = None
    if cache is not None and fresh:
        cache.forget()
    elif cache is not None:
        wanted = set(names)
        for result, compared_at in cache.load():
            if result.name in wanted and not is_cancelled():
                known[result.name] = result
                results.append((result, compared_at))
                post(ResultsArrived(job))
    remaining = [name for name in names if name not in known]
    post(ComparisonStarted(job, remaining))
    summary: DiffSummary | None = None
    try:
        pair = CheckpointPair(a, b, tuple(names))
        stream = engine.compare(pair, executor, tolerance=tolerance, known=known, first=first)
        with closing(stream), cache if cache is not None and remaining else nullcontext():
            for event in stream:
                if not isinstance(event, TensorDiff):
                    summary = event
                    continue
                if is_cancelled():
                    raise Stopped
                if cache is not None:
                    cache.add(event, time.time())
                results.append((event, None))
                post(ResultsArrived(job))
        if summary is None:  # the workers were shut down: the screen is closing
            raise Stopped
        post(ComparisonEnded(job, "done", summary))
    except Stopped:
        post(ComparisonEnded(job, "stopped"))
    except CkptDiffError as error:
        post(ComparisonEnded(job, "failed", error=error.with_hint(KEYS)))
