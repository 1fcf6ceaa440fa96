"""Commands that a page shows with what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def transcripts(page: str) -> list[tuple[str, str]]:
    """Return each command of a page and its output."""
    return [
        (lines[0].removeprefix("$ "), "\n".join(lines[1:]))
        for block in re.findall(r"```console\n(.*?)\n```", page, re.DOTALL)
        for lines in [block.split("\n")]
    ]


def without_times(text: str) -> str:
    return re.sub(r"in \d+\.\d s", "in … s", text)


def run(command: str, folder: Path) -> str:
    """Return what a command prints in a folder, which is `/runs` on every page."""
    program = f"'{sys.executable}' -m ckptdiff"
    done = subprocess.run(
        re.sub(r"^ckptdiff", program, command),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.replace(str(folder), "/runs").rstrip()
