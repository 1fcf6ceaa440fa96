"""The command `help`: a page of the guide, in a pager on a terminal, as Markdown elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptdiff.guide.topics import page, topics

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  ckptdiff help                    which pages there are
  ckptdiff help verdicts           what same, close and differ mean, and the exit codes
  ckptdiff help QKV-SWAP           what one class of faults is
  ckptdiff help formats > page.md  a page as Markdown
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `help` to a parser."""
    parser.description = "Print a page of the guide; without a topic, the list of pages."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "topic",
        nargs="?",
        metavar="TOPIC",
        help="a page, a class of faults such as QKV-SWAP, or a verdict",
    )


def run(options: argparse.Namespace) -> int:
    """Print a page, or the list of pages; return 0. Raises BadArgument for an unknown topic."""
    if options.topic is None:
        sys.stdout.write(_contents())
        return 0
    text = page(options.topic)
    if sys.stdout.isatty():
        _show_page(text)
    else:
        sys.stdout.write(text)
    return 0


def _contents() -> str:
    width = max(map(len, topics())) + 2
    lines = [f"  {name:<{width}}{title}" for name, title in topics().items()]
    return "\n".join(
        ["The pages of the guide; `ckptdiff help TOPIC` prints one:", "", *lines, "",
         "A class of faults is a topic too, and so is a status or a verdict:",
         "ckptdiff help QKV-SWAP, ckptdiff help packed", ""]
    )  # fmt: skip


def _show_page(text: str) -> None:
    """Render a page in the width of the terminal and show it in a pager."""
    from rich.console import Console

    from ckptdiff.tui.text.page import Page

    console = Console()
    with console.capture() as captured:
        console.print(Page(text))
    _page_out(captured.get())


def _page_out(text: str) -> None:
    """Show a text in $PAGER, else in less, else print it."""
    command = os.environ.get("PAGER", "less" if shutil.which("less") else "")
    if not command or os.environ.get("TERM") == "dumb":
        sys.stdout.write(text)
        return
    # As git does: text that fits on the screen is only printed, colours are kept.
    environ = {"LESS": "FRX", "LV": "-c", **os.environ}
    sys.stdout.flush()
    with subprocess.Popen(  # noqa: S602 -- $PAGER is a command line
        command,
        shell=True,
        stdin=subprocess.PIPE,
        env=environ,
        text=True,
        errors="replace",
    ) as pager:
        assert pager.stdin is not None
        with suppress(OSError):  # the user quit the pager early, or there is no such program
            pager.stdin.write(text)
            pager.stdin.flush()
        with suppress(OSError):
            pager.stdin.close()
        while pager.poll() is None:
            with suppress(KeyboardInterrupt):  # ctrl+c is for the pager, which goes on
                pager.wait()
    if pager.returncode:  # the shell found no such program, or it failed
        sys.stdout.write(text)
