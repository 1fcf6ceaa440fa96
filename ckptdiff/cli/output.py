"""Results on the standard output: as they are in a pipe, painted and wrapped on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ckptdiff.report.tensor_table import TensorTable
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def print_parts(parts: Iterable[str | TensorTable], *, is_listing: bool = False) -> None:
    """Print lines and tables, or the lines of `ls`; which terminals are painted is Rich's rule.

    What no terminal shows is escaped, if it was not where it came from a file.
    NO_COLOR and TERM=dumb turn colour off, FORCE_COLOR puts it into a pipe, line for line.
    """
    is_terminal = sys.stdout.isatty()
    if is_terminal or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE") == "1":
        from ckptdiff.cli.paint import Painter

        painter = Painter(is_laid_out=is_terminal, is_listing=is_listing)
        for part in parts:
            sys.stdout.write(painter.painted(printable(part) if isinstance(part, str) else part))
        return
    for part in parts:
        for line in part.lines() if isinstance(part, TensorTable) else (part,):
            print(printable(line))
