"""What converting runs in worker threads: planning from headers, and the conversion itself."""

from __future__ import annotations

import gc
import time
from contextlib import closing
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.tui.messages import ConversionAdvanced, ConversionEnded
from ckptdiff.tui.model.conversion import ConversionDraft, ConversionPlan
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.read_compare import MANY_NAMES, out_of_the_way

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

TELL_SECONDS = 0.1  # between two words about progress


def plan_draft(
    draft: ConversionDraft, engine: Engine, opened: dict[Path, Checkpoint]
) -> ConversionPlan:
    """Return the plan for a draft; headers read once are kept in `opened`."""
    from ckptdiff.conversion.command import command_of
    from ckptdiff.conversion.destination import free_bytes, holds_anything, proposed_out

    def read(path: Path) -> Checkpoint:
        if path not in opened:
            opened[path] = engine.open(path, lambda _done, _total: None)
        return opened[path]

    out = draft.out or draft.source
    command: tuple[str, ...] = ()  # none without a folder to write to
    try:
        with out_of_the_way():
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
        return ConversionPlan(draft, out, command, error=error.with_hint(KEYS))
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
    """Convert in worker processes of its own: whatever else is closed does not end it."""
    from ckptdiff.conversion.command import closing_lines
    from ckptdiff.conversion.run import Lost, Written

    executor = engine.executor()
    lost: list[Lost] = []
    compared: list[TensorDiff] = []
    try:
        told = _Told(number, conversion, post)
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
                told.take(event)
            else:
                lines = tuple(closing_lines(conversion, lost, compared))
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


class _Told:
    """Sums up what has happened, and tells it now and then."""

    def __init__(self, number: int, conversion: Conversion, post: Post) -> None:
        self.verifying = False
        self._number = number
        self._left = len(conversion.files)
        self._post = post
        self._done = 0
        self._kept = 0
        self._next = 0.0

    def take(self, event: Written | TensorDiff) -> None:
        from ckptdiff.conversion.run import Written

        if isinstance(event, Written):
            name = event.file
            if event.complete:
                self._left -= 1
                self._kept += event.nbytes  # of a whole file at once: an earlier run wrote it
            else:
                self._done += event.nbytes
        else:
            name = event.name
            if not self.verifying:
                self.verifying, self._done, self._next = True, 0, 0.0
            self._done += event.nbytes
        now = time.monotonic()
        if now >= self._next or (not self._left and not self.verifying):
            self._next = now + TELL_SECONDS
            self._tell(name)

    def _tell(self, name: str) -> None:
        stage: Stage = "writing" if self._left else "verifying"
        done = 0 if not self.verifying and not self._left else self._done
        name = name if self.verifying or self._left else ""
        self._post(ConversionAdvanced(self._number, stage, name, done, self._kept))
