"""The real program in a terminal of tmux."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


class Terminal:
    """One tmux server with one window; a fresh socket each, since servers die slowly."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = f"ckptdiff-{uuid.uuid4().hex[:12]}"

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        return done.stdout

    def start(self, *arguments: object, size: tuple[int, int] = (80, 24), **environ: str) -> None:
        variables = {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "NO_COLOR": "",
            "SSH_CONNECTION": "",
            **environ,
        }
        assignments = " ".join(f"{key}='{value}'" for key, value in variables.items())
        command = " ".join([sys.executable, "-m", "ckptdiff", *map(str, arguments)])
        # COLUMNS and LINES, which pytest's workers have, would overrule the terminal's size.
        shell = f"env -u COLUMNS -u LINES {assignments} {command}; echo exit code $?; read -r _"
        width, height = map(str, size)
        self.tmux("new-session", "-d", "-x", width, "-y", height, f"sh -c '{_quoted(shell)}'")

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.tmux("send-keys", "--", key)

    def screen(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """Return the screen as soon as this text is on it."""
        deadline = time.monotonic() + seconds
        while text not in (screen := self.screen()):
            if time.monotonic() > deadline:
                pytest.fail(f"no {text!r} within {seconds} s on\n{screen}")
            time.sleep(0.05)
        return screen

    def children(self) -> list[int]:
        """Return the processes that the program has started, theirs included."""
        (shell,) = self.tmux("list-panes", "-F", "#{pane_pid}").split()
        found = [int(shell)]
        for parent in found:
            done = subprocess.run(["ps", "--ppid", str(parent), "-o", "pid="], capture_output=True)
            found += map(int, done.stdout.split())
        return found[1:]

    def modes(self) -> tuple[bool, bool, bool]:
        """Return whether the other screen is shown, mice are reported, the cursor is hidden."""
        flags = "#{alternate_on} #{mouse_any_flag} #{?cursor_flag,0,1}"
        alternate, mouse, hidden = self.tmux("display-message", "-p", flags).split()
        return alternate == "1", mouse == "1", hidden == "1"

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True)


def _quoted(shell: str) -> str:
    return shell.replace("'", "'\\''")
