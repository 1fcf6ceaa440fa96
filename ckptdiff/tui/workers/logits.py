"""Compare the logits of a prompt. Torch is in a worker process, not in this thread."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import closing
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.results import LogitDiff
from ckptdiff.tui.messages import DevicesFound, LogitsAdvanced, LogitsEnded, PromptRead
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.workers.cancellable import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message import Message

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.workers.cancellable import Cancellable
    from ckptdiff.tui.workers.engine import Engine


def ask(
    run: int,
    engine: Engine,
    a: Assembled,
    b: Assembled,
    text: str,
    *,
    device: str,
    attribute: bool,
    executor: Cancellable,
    post: Callable[[Message], object],
) -> None:
    """Tokenize a prompt and compute it on both sides, posting the taps of each layer."""
    found: LogitDiff | None = None
    try:
        prompt = engine.read_prompt(text, a, b, executor)
        post(PromptRead(run, prompt))
        post(DevicesFound(run, engine.cuda_devices(executor)))
        compared = engine.compare_logits(a, b, prompt, executor, device=device, attribute=attribute)
        with closing(compared) as steps:
            for step in steps:
                if executor.is_cancelled:
                    raise Stopped
                if isinstance(step, LogitDiff):
                    found = step
                else:
                    post(LogitsAdvanced(run, step))
    except (Stopped, CancelledError):
        post(LogitsEnded(run, "stopped"))
    except CkptDiffError as error:
        post(LogitsEnded(run, "failed", error=error.with_hint(KEYS)))
    else:
        post(LogitsEnded(run, "done", found))
