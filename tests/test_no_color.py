"""Without colour everything is still readable: what is written is the terminal's own colours."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING

import pytest

from ckptdiff.demo import make_demo
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


def output_of(arguments: list[str], environ: dict[str, str], *, until: bytes, keys: bytes) -> str:
    """Run the program in a terminal until it says something, press keys, return what it wrote."""
    leader, follower = pty.openpty()
    ioctl(leader, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "-m", "ckptdiff", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, **environ},
        start_new_session=True,
    )
    os.close(follower)
    written = b""
    deadline = time.monotonic() + PATIENCE
    pressed = False
    while time.monotonic() < deadline:
        readable, _, _ = select.select([leader], [], [], 0.1)
        if readable:
            try:
                written += os.read(leader, 65536)
            except OSError:  # the program has gone and its terminal with it
                break
        if until in written and not pressed:
            pressed = True
            os.write(leader, keys)
    program.wait(PATIENCE)
    os.close(leader)
    assert pressed, written[-2000:]
    return written.decode(errors="replace")


@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize("value", ["1", "0", "true"])
def test_no_colour_code_is_written(tmp_path: Path, value: str) -> None:
    a, b = make_demo(tmp_path / "demo")
    environ = {
        "NO_COLOR": value,
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }
    written = output_of([str(a), str(b)], environ, until=b"2 of 39 tensors differ", keys=b"n?qQ")
    codes = {
        code
        for sequence in re.findall(r"\x1b\[([\d;]*)m", written)
        for code in re.findall(r"[34]8;(?:5;\d+|2;\d+;\d+;\d+)|\d+", sequence)
        if ";" in code or int(code) >= 30
    }
    assert codes <= {"39", "49"}
