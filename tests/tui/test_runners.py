"""Runners listen to their latest run alone, and say what came of it by one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.tui.messages import (
    CheckpointsOpened,
    ComparisonEnded,
    DiagnosisEnded,
    LogitsEnded,
    ReadingFailed,
)
from ckptdiff.tui.model.inventory import Inventory
from tests.support.tui.fakes import A, B, assembled, checkpoint
from tests.support.tui.harness import settle, tensors, toasts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.message import Message

    from ckptdiff.tui.app import CkptDiffApp

pytestmark = pytest.mark.mostly_slow(one_in=5)


async def test_what_an_older_comparison_still_says_is_dropped(app: CkptDiffApp) -> None:
    async with app.run_test() as pilot:
        await settle(app, pilot)
        runner, session = tensors(app).comparison, tensors(app).session
        old, names = runner.number - 1, list(session.names)
        late: list[Message] = [
            CheckpointsOpened(old, Inventory(), assembled(checkpoint(A, ["x"])), None, True),
            ComparisonEnded(old, "stopped"),
            ReadingFailed(old, "too late"),
        ]
        for message in late:
            runner.post_message(message)
        await settle(app, pilot)
        assert (list(session.names), session.phase, session.error) == (names, "done", None)

        runner.post_message(ReadingFailed(runner.number, "just now"))
        await settle(app, pilot)
        assert (session.phase, session.error) == ("failed", "just now")


async def test_what_an_older_diagnosis_still_says_is_dropped(app: CkptDiffApp) -> None:
    async with app.run_test() as pilot:
        await settle(app, pilot)
        runner, session = tensors(app).diagnosis, tensors(app).session
        runner.post_message(DiagnosisEnded(runner.number - 1, "failed", error="too late"))
        await settle(app, pilot)
        assert session.diagnosis_state == "done"

        runner.post_message(DiagnosisEnded(runner.number, "failed", error="just now"))
        await settle(app, pilot)
        assert (session.diagnosis_state, session.diagnosis_error) == ("failed", "just now")


async def test_what_an_older_prompt_still_says_is_dropped(app: CkptDiffApp) -> None:
    async with app.run_test() as pilot:
        await settle(app, pilot)
        runner = tensors(app).prompts
        runner.ask("one")
        first = runner.number
        runner.ask("two")
        await settle(app, pilot)
        assert runner.run is not None
        assert (runner.run.text, runner.run.state) == ("two", "done")
        runner.post_message(LogitsEnded(first, "failed", error="too late"))
        await settle(app, pilot)
        assert (runner.run.state, runner.run.error) == ("done", None)


async def test_what_workers_say_ends_at_their_runner(app: CkptDiffApp) -> None:
    heard: list[str] = []

    def hook(message: Message) -> None:
        heard.append(type(message).__name__)

    async with app.run_test(message_hook=hook) as pilot:
        await settle(app, pilot)
        assert heard.count("ComparisonEnded") == 1
        assert heard.count("CheckpointsOpened") == 2


async def test_settings_that_cannot_be_written_are_told_of(
    make_app: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("no folder")
    app = make_app(A, B)
    async with app.run_test() as pilot:
        await settle(app, pilot)
        await pilot.press("d")
        await settle(app, pilot)
        assert sum("Settings are not kept." in words for words in toasts(app)) == 1
        assert app.settings.differences_only
