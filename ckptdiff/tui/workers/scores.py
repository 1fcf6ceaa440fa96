"""Compare benchmark scores. Torch and the harness are in a worker process, not in this thread."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import closing
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.scores.results import ScoreDiff, ScoreProgress
from ckptdiff.tui.messages import DevicesFound, ScoresAdvanced, ScoresEnded
from ckptdiff.tui.model.score_run import ScoreResult
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.cancellable import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from textual.message import Message

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.model.score_run import ScoreRequest
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine, ScoreWork

# What a run does once it has failed.
CLOSING_UP = "failed; what was answered is put together"


def compare(
    run: int,
    engine: Engine,
    a: Assembled,
    b: Assembled,
    asked: ScoreRequest,
    *,
    folder: Path | None,
    answering: Cancellable,
    closing_up: Cancellable,
    post: Callable[[Message], object],
) -> None:
    """Have both sides answer, posting progress, then the result.

    Once `answering` is cancelled, or a job of it has failed, the result is of what has been
    answered; its jobs are submitted to `closing_up`, and cancelling that too ends without a result.
    """
    work: ScoreWork | None = None
    found: ScoreDiff | None = None
    try:
        post(DevicesFound(run, engine.cuda_devices(answering)))
        work = engine.scores(a, b, asked, answering, folder)
        with closing(work.results()) as steps:
            for step in steps:
                if answering.is_cancelled:
                    raise Stopped
                if isinstance(step, ScoreDiff):
                    found = step
                else:
                    post(ScoresAdvanced(run, step))
    except (Stopped, CancelledError):
        keeps = work is not None and work.keeps
        post(ScoresEnded(run, "stopped", _result(_so_far(work, closing_up)), keeps=keeps))
    except CkptDiffError as error:
        words = error.with_hint(KEYS)
        if work is None or not work.answered[0]:
            post(ScoresEnded(run, "failed", error=words))
            return
        post(ScoresAdvanced(run, ScoreProgress(CLOSING_UP, *work.answered, 0.0)))
        result = _result(_so_far(work, closing_up))
        post(ScoresEnded(run, "failed", result, words, keeps=work.keeps))
    else:
        post(ScoresEnded(run, "done", _result(found)))


def _result(found: ScoreDiff | None) -> ScoreResult | None:
    return None if found is None else ScoreResult.of(found)


def _so_far(work: ScoreWork | None, executor: Executor) -> ScoreDiff | None:
    """Return the result of what has been answered; None if there is none."""
    if work is None:
        return None
    try:
        return work.so_far(executor)
    except (Stopped, CancelledError, CkptDiffError):
        return None
