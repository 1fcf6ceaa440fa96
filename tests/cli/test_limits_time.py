"""Processes that are stopped and go on, and clocks that jump: the same result."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.main import main
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, environment, group

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]


@pytest.mark.slow
def test_a_comparison_that_is_stopped_and_goes_on(tiny_hf: Make, tiny_megatron: Make) -> None:
    command = [*PROGRAM, "diff", "--jobs", "2", str(tiny_hf()), str(tiny_megatron(tp=2))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    )  # fmt: skip
    stops = 0
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        one = group(process.pid)
        try:
            if stops % 2 or not one:
                os.killpg(process.pid, signal.SIGSTOP)
            else:  # one of its processes alone
                os.kill(one[stops // 2 % len(one)], signal.SIGSTOP)
            time.sleep(0.01)
            os.killpg(process.pid, signal.SIGCONT)
        except ProcessLookupError:
            continue
        stops += 1
        time.sleep(0.02)
    said, told = process.communicate(timeout=PATIENCE)
    assert stops > 3
    assert (process.returncode, told) == (0, "")
    assert "verdict: same" in said


def test_a_clock_that_jumps_changes_nothing(
    tiny_hf: Make,
    tiny_megatron: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = cycle([0.0, 4e9, -1e9, 1.7e9, 86400.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(clock) * 1e9))
    assert main(["diff", "--jobs", "1", str(tiny_hf()), str(tiny_megatron(tp=2))]) == 0
    said = capsys.readouterr().out
    assert "verdict: same" in said
    seconds = [float(number) for number in re.findall(r"(-?[\d.]+) s\b", said)]
    assert all(0 <= number < 3600 for number in seconds), said
