"""What runs in worker threads: reading headers, comparing. It speaks by messages."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import CkptDiffError
from ckptdiff.gc_pause import uncollected
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
    Results = deque[tuple[TensorDiff, float | None]]  # and when, for those of an earlier run

MANY_NAMES = 5000
SWITCH_SECONDS = 0.0005
PROGRESS_SECONDS = 0.2


@contextmanager
def out_of_the_way() -> Iterator[None]:
    """Make hundreds of thousands of lasting objects in threads without holding up the screen.

    A full garbage collection over them takes longer than a key press may; and threads that parse
    headers have to hand the interpreter over more often than they would by themselves.
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
    executor: Callable[[], Executor],
    post: Post,
    is_cancelled: Callable[[], bool],
) -> None:
    """Open one checkpoint or two; what is known already is shown while the rest is being read.

    `opened` are checkpoints that another screen has read already. Without rules, what names leave
    over is paired by equal rows; `optimizer` adds the state of the optimizers.
    """

    def read_side(side: Side, path: Path) -> Checkpoint:
        said = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal said
            if is_cancelled():
                raise Stopped
            now = time.monotonic()
            if now - said >= PROGRESS_SECONDS or done == total:
                said = now
                post(HeadersRead(job, side, done, total))

        return opened.get(path) or engine.open(path, progress)

    def show_first_file(path: Path) -> None:
        begun = None if path in opened else engine.open_first(path)
        if begun is not None:
            part = engine.assemble(begun)
            inventory = take_inventory([*part.tensors, *part.errors], part)
            post(CheckpointsOpened(job, inventory, part, None, complete=False, in_part=True))

    def rows_read(done: int, total: int) -> None:
        if is_cancelled():
            raise Stopped
        post(RowsRead(job, done, total))

    def optimizer_refused(error: CkptDiffError) -> None:
        post(OptimizerRefused(job, error.with_hint(KEYS)))

    try:
        with out_of_the_way():
            show_first_file(paths[0])
            a = read_side("a", paths[0])
            first = engine.assemble(a)
            complete = len(paths) == 1
            inventory = take_inventory([*first.tensors, *first.errors], first)
            post(CheckpointsOpened(job, inventory, first, None, complete))
            if not complete:
                b = read_side("b", paths[1])
                config: tuple[ConfigDiff, ...] | None = None
                for pair in engine.pair(
                    first, b, executor,
                    optimizer=optimizer, matching=rows_read, refused=optimizer_refused,
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


def _history(
    folder: Path, a: Assembled, b: Assembled, tolerance: str, *, optimizer: bool
) -> ResultCache:
    """Return where results are kept: of weights, or apart from those with the optimizer state."""
    from ckptdiff.result_cache import ResultCache

    one, other = a.checkpoint, b.checkpoint
    if optimizer:
        # The state lies in files that opening leaves out; they may change by themselves.
        one, other = (
            replace(
                side.checkpoint,
                files=tuple({p.ref.file for t in side.tensors.values() for p in t.pieces}),
            )
            for side in (a, b)
        )
        tolerance += " optimizer"
    return ResultCache(folder, one, other, tolerance)


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
    """Compare a pair: what an earlier run found is taken from its history unless `fresh`."""
    from ckptdiff.comparison.pipeline import CheckpointPair

    known: dict[str, TensorDiff] = {}
    try:
        kept = None if history is None else _history(history, a, b, tolerance, optimizer=optimizer)
    except OSError:
        kept = None
    if kept is not None and fresh:
        kept.forget()
    elif kept is not None:
        wanted = set(names)
        for result, at in kept.load():
            if result.name in wanted and not is_cancelled():
                known[result.name] = result
                results.append((result, at))
                post(ResultsArrived(job))
    left = [name for name in names if name not in known]
    post(ComparisonStarted(job, left))
    summary: DiffSummary | None = None
    try:
        pair = CheckpointPair(a, b, tuple(names))
        stream = engine.compare(pair, executor, tolerance=tolerance, known=known, first=first)
        with closing(stream), kept if kept is not None and left else nullcontext():
            for event in stream:
                if not isinstance(event, TensorDiff):
                    summary = event
                    continue
                if is_cancelled():
                    raise Stopped
                if kept is not None:
                    kept.add(event, time.time())
                results.append((event, None))
                post(ResultsArrived(job))
        if summary is None:  # the workers were shut down: somebody is leaving
            raise Stopped
        post(ComparisonEnded(job, "done", summary))
    except Stopped:
        post(ComparisonEnded(job, "stopped"))
    except CkptDiffError as error:
        post(ComparisonEnded(job, "failed", error=error.with_hint(KEYS)))
