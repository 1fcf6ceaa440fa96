"""How far a command is: shown on a terminal alone."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

from ckptdiff.cli import progress
from ckptdiff.cli.progress import LongProgress, ProgressBar, counter

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def as_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return what stands for stderr from here on; pytest would undo it before a test begins."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return found


def plain(shown: str) -> str:
    """Return the last line that was drawn, without colours."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()][-1]


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert counter("reading", "files") is None
    with ProgressBar("bytes") as bar:
        bar.begin("write", 100)
        bar.advance(50, "a file")
        bar.reach(1, 2, seconds=0.5)
    assert capsys.readouterr() == ("", "")


def test_a_counter_wipes_its_line_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_stderr(monkeypatch)
    count = counter("reading headers", "files")
    assert count is not None
    count(1, 2)
    assert terminal.getvalue() == "\rreading headers 1 of 2 files\r"
    count(2, 2)
    assert terminal.getvalue().endswith("2 of 2 files\r\033[K")


def test_bytes_have_a_speed_and_the_next_bar_takes_the_place_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = as_stderr(monkeypatch)
    with ProgressBar("bytes") as bar:
        bar.begin("write", 4000)
        bar.advance(1000, "model.safetensors")
        bar.begin("verify", 8000)
        bar.advance(2000)
    last = plain(terminal.getvalue())
    assert last.startswith("verify ")
    assert "2.0/8.0 kB" in last
    assert "write" not in last
    assert "model.safetensors" not in last


def test_a_bar_names_what_is_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_stderr(monkeypatch)
    with ProgressBar("bytes") as bar:
        bar.begin("write", 4000)
        bar.advance(1000, "model.safetensors")
    assert plain(terminal.getvalue()).startswith("model.safetensors ")
    terminal.truncate(0)
    with ProgressBar("bytes", shows_what=False) as bar:
        bar.begin("compare", 4000)
    assert "compare" not in terminal.getvalue()


def test_steps_have_the_seconds_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_stderr(monkeypatch)
    with ProgressBar("steps") as bar:
        bar.begin("layer by layer", 4)
        bar.reach(3, 4, seconds=1.25)
    last = plain(terminal.getvalue())
    assert "3/4" in last
    assert "1.2 s each" in last


def test_long_work_has_a_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_stderr(monkeypatch)
    with LongProgress("questions") as shown:
        shown.say("40 questions [red]in all")
        shown.reach("layer 3 of a\x1b", 3, 8, part="batch 1 of 2", rate=2.5, left=205.0)
    text = terminal.getvalue()
    assert "40 questions [red]in all" in text
    last = plain(text)
    assert last.startswith("layer 3 of a\\x1b ")
    assert "batch 1 of 2, 2.5 questions a second, 3 min 25 s left" in last


def test_in_a_log_long_work_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with LongProgress("questions") as shown:
        shown.say("40 questions")
        for done in range(6):
            now[0] += 25
            shown.reach(f"layer {done}", done, 8, rate=2.5, left=600.0)
            shown.reach("not yet measured", done, 8)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "40 questions",
        "layer 2, 2.5 questions a second, 10 min left",
        "layer 5, 2.5 questions a second, 10 min left",
    ]
