"""The screen compares base and adapter with a merged model, as `diff --adapter` does."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import InlineExecutor
from ckptdiff.logits.sides import forward_side
from ckptdiff.tui.messages import CheckpointsOpened, ComparisonEnded
from ckptdiff.tui.workers import read_compare
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.corpus import REPOSITORY
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from pathlib import Path

PEFT = REPOSITORY / "tests/data/peft"
BASE, MERGED, ADAPTER = PEFT / "base", PEFT / "merged", PEFT / "adapter"


def opened(adapter: Path | None) -> CheckpointsOpened:
    """Return what the screen has of both sides once they are open."""
    posted: list[Any] = []
    read_compare.read(
        1, LocalEngine(1), [BASE, MERGED], {}, optimizer=False, adapter=adapter,
        executor=InlineExecutor, post=posted.append, is_cancelled=lambda: False,
    )  # fmt: skip
    last = posted[-1]
    assert isinstance(last, CheckpointsOpened)
    return last


def compared(found: CheckpointsOpened, history: Path) -> tuple[str, int]:
    """Return the verdict, and how many results were in the history."""
    assert found.b is not None
    results: deque[Any] = deque()
    posted: list[Any] = []
    read_compare.compare(
        1, LocalEngine(1), found.a, found.b, found.inventory.names, results=results,
        history=history, fresh=False, tolerance="cast", optimizer=False,
        executor=InlineExecutor, first=list, post=posted.append, is_cancelled=lambda: False,
    )  # fmt: skip
    ended = posted[-1]
    assert isinstance(ended, ComparisonEnded)
    assert ended.summary is not None
    return ended.summary.verdict, sum(at is not None for _, at in results)


def test_results_with_an_adapter_are_not_those_without(tmp_path: Path) -> None:
    whole, plain = opened(ADAPTER), opened(None)
    assert whole.a.merging is not None
    assert compared(plain, tmp_path) == ("differ", 0)
    assert compared(whole, tmp_path) == ("same", 0)
    assert compared(plain, tmp_path) == ("differ", 7)
    assert compared(whole, tmp_path) == ("same", 0)


def test_logits_are_of_stored_weights_alone() -> None:
    whole = opened(ADAPTER)
    assert whole.b is not None
    with pytest.raises(UnsupportedLayout, match="convert it with the adapter first"):
        forward_side(whole.a, whole.b, "hf")


def test_without_a_terminal_it_is_diff() -> None:
    done = ckptdiff(BASE, MERGED, "--adapter", ADAPTER)
    assert done.returncode == 0
    assert "verdict: same" in done.stdout
    done = ckptdiff(BASE, "--adapter", ADAPTER)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is added to the first of two checkpoints" in done.stderr
