"""Plan a conversion from headers, and run it."""

from __future__ import annotations

import gc
import time
from contextlib import closing
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.messages import ConversionAdvanced, ConversionEnded
from ckptdiff.tui.model.conversion import ConversionDraft, ConversionPlan
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.read_compare import MANY_NAMES, without_blocking_the_screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.message import Message

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.conversion.plan import Conversion
    from ckptdiff.conversion.run import Written
    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.model.conversion import Stage
    from ckptdiff.tui.workers.engine import Engine

    Post = Callable[[Message], object]

REPORT_SECONDS = 0.1  # between two progress messages


def plan_draft(
    draft: ConversionDraft, engine: Engine, opened: dict[Path, Checkpoint]
) -> ConversionPlan:
    """Return the plan for a draft. Checkpoints that it opens are added to `opened`."""
    from ckptdiff.conversion.command import command_of
    from ckptdiff.conversion.destination import free_bytes, holds_anything, proposed_out

    def read(path: Path) -> Checkpoint:
        if path not in opened:
            opened[path] = engine.open(path, lambda _done, _total: None)
        return opened[path]

    out = draft.out or draft.source
    command: tuple[str, ...] = ()  # empty while there is no folder to write to
    try:
        with without_blocking_the_screen():
            source = read(draft.source)
            if draft.out is None:
                out = proposed_out(source, draft.target)
            command = tuple(command_of(draft.source, out, draft.target, draft.like))
            like = None if draft.like is None else read(draft.like)
            conversion = engine.plan(source, out, draft.target, like)
            free, replaces = free_bytes(out), holds_anything(out)
            if len(conversion.source.tensors) > MANY_NAMES:
                gc.freeze()
    except CkptDiffError as error:
        words = error.with_hint(KEYS)
        return ConversionPlan(draft, out, command, error=words, hint=error.hint)
    except OSError as error:
        return ConversionPlan(draft, out, command, error=f"{out}: {error.strerror}")
    return ConversionPlan(draft, out, command, conversion, free=free, replaces=replaces)


def run_conversion(
    number: int,
    engine: Engine,
    conversion: Conversion,
    *,
    post: Post,
    is_cancelled: Callable[[], bool],
) -> None:
    """Convert in worker processes of its own, so that closing a session does not end it."""
    from ckptdiff.conversion.command import (
        against_line,
        cannot_lines,
        closing_lines,
        start_lines,
    )
    from ckptdiff.conversion.run import Lost, Written

    executor = engine.executor()
    lost: list[Lost] = []
    compared: list[TensorDiff] = []
    try:
        reporter = _ProgressReporter(number, conversion, post)
        with closing(engine.convert(conversion, executor)) as events:
            for event in events:
                if is_cancelled():
                    break
                if isinstance(event, Lost):
                    lost.append(event)
                    continue
                if not isinstance(event, Written):
                    if not compared and len(conversion.source.tensors) > MANY_NAMES:
                        gc.freeze()  # what was written has been opened
                    compared.append(event)
                reporter.take(event)
            else:
                lines = tuple(closing_lines(conversion, lost, compared))
                if conversion.like is not None:
                    summary = engine.compare_with_like(conversion, executor)
                    lines = (*lines, against_line(summary, conversion.like))
                cannot = (f"! {sentence}" for sentence in cannot_lines(conversion))
                lines = (*lines, *cannot, *start_lines(conversion))
                post(ConversionEnded(number, "done", lines))
                return
        post(ConversionEnded(number, "stopped"))
    except CkptDiffError as error:
        post(ConversionEnded(number, "failed", error=error.with_hint(KEYS)))
    except Exception as error:  # noqa: BLE001 -- a thread that breaks must not look like a slow one
        bug = f"{type(error).__name__}: {error}. This is a bug in ckptdiff."
        post(ConversionEnded(number, "failed", error=bug))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _ProgressReporter:
    """Adds up the events of a conversion, and posts the progress."""

    def __init__(self, number: int, conversion: Conversion, post: Post) -> None:
        self.verifying = False
        self._number = number
        self._files_left = len(conversion.files)
        self._post = post
        self._done = 0  # bytes of this stage
        self._kept = 0  # bytes that an earlier run has written
        self._next = 0.0  # monotonic seconds: no message before

    def take(self, event: Written | TensorDiff) -> None:
        from ckptdiff.conversion.run import Written

        if isinstance(event, Written):
            name = event.file
            if event.complete:
                self._files_left -= 1
                self._kept += (
                    event.nbytes
                )  # a whole file in one event: an earlier run has written it
            else:
                self._done += event.nbytes
        else:
            name = event.name
            if not self.verifying:
                self.verifying, self._done, self._next = True, 0, 0.0
            self._done += event.nbytes
        now = time.monotonic()
        if now >= self._next or (not self._files_left and not self.verifying):
            self._next = now + REPORT_SECONDS
            self._report(name)

    def _report(self, name: str) -> None:
        stage: Stage = "writing" if self._files_left else "verifying"
        done = 0 if not self.verifying and not self._files_left else self._done
        name = name if self.verifying or self._files_left else ""
        self._post(ConversionAdvanced(self._number, stage, name, done, self._kept))
