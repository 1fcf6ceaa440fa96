"""The command `demo`: make a small pair with one planted fault, and open it on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.cli import screen
from ckptdiff.text import operand, printable, shell_line

if TYPE_CHECKING:
    import argparse

_FAULT_HELP = "kv-swap (default), tp-swap, gate-up, rope, stale, rope-base or none"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `demo` to a parser."""
    parser.description = "Make a small Hugging Face and Megatron pair with one planted fault."
    parser.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="default: ckptdiff-demo")
    parser.add_argument("--fault", default="kv-swap", metavar="NAME", help=_FAULT_HELP)
    parser.add_argument("--no-tui", action="store_true", help="only write the pair")
    screen.add_drawing_options(parser)
    parser.set_defaults(jobs=None, optimizer=False)


def run(options: argparse.Namespace) -> int:
    """Write the pair and open it, or print where it is; return 0. Raises a CkptDiffError."""
    from ckptdiff.demo import make_demo

    hf, megatron = make_demo(options.dir or Path("ckptdiff-demo"), fault=options.fault)
    if options.no_tui or not screen.has_terminal():
        print(f"A  {printable(str(hf))}\nB  {printable(str(megatron))}")
        print(shell_line(["ckptdiff", operand(hf), operand(megatron)]))
        return 0
    return screen.show([hf, megatron], options)
