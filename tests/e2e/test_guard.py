"""Whatever ends the app, the terminal comes back; stopped, it is one job of the shell."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptdiff.demo import make_demo
from tests.support.program import until
from tests.support.tmux import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
    pytest.mark.mostly_slow(one_in=9),
]

ON, OFF = (True, True, True), (False, False, False)
SENTENCES = {
    signal.SIGKILL: "ckptdiff: killed (SIGKILL): by a user, or by the system when memory ran out",
    signal.SIGSEGV: "ckptdiff: crashed (SIGSEGV): this is a bug in ckptdiff, please report it",
    signal.SIGBUS: "ckptdiff: crashed (SIGBUS): this is a bug in ckptdiff, please report it",
    signal.SIGABRT: "ckptdiff: crashed (SIGABRT): this is a bug in ckptdiff, please report it",
    signal.SIGTERM: "ckptdiff: ended (SIGTERM)",
    signal.SIGHUP: "ckptdiff: ended (SIGHUP)",
    signal.SIGQUIT: "ckptdiff: ended (SIGQUIT)",
    signal.SIGUSR1: "ckptdiff: ended (SIGUSR1)",
    signal.SIGRTMIN + 2: f"ckptdiff: ended (signal {signal.SIGRTMIN + 2})",
}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


class Shell:
    """An interactive shell in a terminal, which knows jobs."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.said = 0
        home = " ".join(f"{name}={terminal.home}" for name in ("HOME", "XDG_CACHE_HOME"))
        bash = f"env -u COLUMNS -u LINES {home} PS1='$ ' bash --norc --noprofile -i"
        terminal.tmux("new-session", "-d", "-x", "120", "-y", "24", bash)

    def do(self, line: str) -> None:
        self.terminal.keys(line, "Enter")

    def settings(self) -> str:
        """Return the settings of the terminal, as a program sees them that the shell starts."""
        self.said += 1
        file = self.terminal.home / f"settings{self.said}"
        self.do(f"clear; stty -g > {file}; echo said $(({self.said} + 100))")
        self.terminal.wait_for(f"said {self.said + 100}")
        return file.read_text()


def ours(terminal: Terminal) -> tuple[int, int]:
    """Return the process that was started and the app's, its child."""
    first, second, *_ = (
        pid for pid in terminal.children() if b"-m\0ckptdiff" in _command(pid)
    )  # fmt: skip
    return first, second


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def open_app(shell: Shell) -> tuple[int, int]:
    shell.do(f"clear; {sys.executable} -m ckptdiff; echo exit code $?")
    shell.terminal.wait_for("Compare two checkpoints")
    assert until(lambda: shell.terminal.modes() == ON)
    return ours(shell.terminal)


@pytest.mark.parametrize("number", SENTENCES)
def test_a_signal_that_ends_the_app_leaves_the_terminal_as_it_was(
    terminal: Terminal, number: int
) -> None:
    shell = Shell(terminal)
    before = shell.settings()
    _, app = open_app(shell)
    os.kill(app, number)
    screen = terminal.wait_for(f"exit code {128 + number}")
    said = [line for line in screen.splitlines() if line and not line.startswith("$")]
    assert said[-2:] == [SENTENCES[number], f"exit code {128 + number}"]
    assert terminal.modes() == OFF
    assert shell.settings() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_process_that_was_started_ends_the_app(
    terminal: Terminal, number: int
) -> None:
    shell = Shell(terminal)
    before = shell.settings()
    first, app = open_app(shell)
    os.kill(first, number)
    assert until(lambda: terminal.modes() == OFF)
    assert until(lambda: not _runs(app))
    assert shell.settings() == before


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_app_takes_its_workers_along(terminal: Terminal) -> None:
    pair = make_demo(terminal.home / "demo")
    shell = Shell(terminal)
    shell.do(f"clear; {sys.executable} -m ckptdiff {pair[0]} {pair[1]}; echo exit code $?")
    terminal.wait_for("2 of 39 tensors differ")
    _, app = ours(terminal)
    processes = terminal.children()
    os.kill(app, signal.SIGKILL)
    screen = terminal.wait_for("exit code 137")
    assert "resource_tracker" not in screen
    assert until(lambda: not any(map(_runs, processes)))


def test_a_stopped_app_is_a_job_of_the_shell_and_goes_on(terminal: Terminal) -> None:
    shell = Shell(terminal)
    before = shell.settings()
    first, app = open_app(shell)
    terminal.keys("C-z")
    terminal.wait_for("Stopped")
    assert terminal.modes() == OFF
    assert shell.settings() == before
    typed = ""
    for pid, number in ((None, None), (app, signal.SIGSTOP), (first, signal.SIGSTOP),
                        (first, signal.SIGTSTP), (app, signal.SIGTSTP)):  # fmt: skip
        if pid is not None and number is not None:
            os.kill(pid, number)
            assert until(lambda: "T" in _state(first))
        shell.do("fg")
        assert until(lambda: terminal.modes() == ON and "T" not in _state(first) + _state(app))
        terminal.keys("x")
        typed += "x"
        terminal.wait_for(f" {typed} ")
    terminal.keys("C-q")
    assert until(lambda: terminal.modes() == OFF and terminal.children() == [])
    shell.do("echo exit code $?")
    terminal.wait_for("exit code 0")
    assert shell.settings() == before


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_one_that_is_started_in_the_background_waits_for_the_terminal(terminal: Terminal) -> None:
    shell = Shell(terminal)
    before = shell.settings()
    shell.do(f"clear; {sys.executable} -m ckptdiff &")
    assert until(lambda: len(terminal.children()) > 0)
    assert until(lambda: "T" in _state(terminal.children()[0]))
    assert terminal.modes() == OFF
    shell.do("fg")
    terminal.wait_for("Compare two checkpoints")
    terminal.keys("C-q")
    assert until(lambda: terminal.modes() == OFF)
    assert shell.settings() == before


def test_the_process_that_waits_is_small(terminal: Terminal) -> None:
    first, app = open_app(Shell(terminal))
    assert _private(first) < _private(app) / 5


def _private(pid: int) -> int:
    """Return the memory of a process that no other shares, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
