"""The command line: parse, run the command, and report every error as one paragraph."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

from ckptdiff import __version__
from ckptdiff.cli import streams
from ckptdiff.cli.parser import CommandParser
from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each is a module of this package, imported when its command is run.
COMMANDS = ("ls", "diff", "convert", "logits", "scores", "serve", "demo", "help", "completion")
EXAMPLES = """\
examples:
  ckptdiff demo                                       a small pair with a fault to find
  ckptdiff llama-hf run7/iter_0001000                 compare two checkpoints on the screen
  ckptdiff diff llama-hf run7 --json -                the same for a script; exit 0 same, 1 differ
  ckptdiff ls run7 --filter 'layers.0 qkv' --raw      what is in the files, from headers alone

A is the reference. `ckptdiff COMMAND --help` tells the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 for an error, 130 for ctrl+c, else its own."""
    options = argparse.Namespace(verbose=False)
    if not streams.prepare():  # `>&-`: exit code 0 would claim a result that nobody saw
        print("ckptdiff: the output is closed", file=sys.stderr)
        return 2
    try:
        try:
            options = _parse(list(sys.argv[1:] if argv is None else argv))
            code: int = options.run(options)
        finally:  # after --help too
            sys.stdout.flush()
    except CkptDiffError as error:
        from ckptdiff.cli.hints import OPTIONS
        from ckptdiff.text import printable

        if options.verbose:
            _print_traceback()
        text = printable(error.with_hint(OPTIONS))
        if len(text) > 2500:  # a name in a file may have any length
            text = f"{text[:1200]} … {text[-1200:]}"
        print(f"ckptdiff: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ckptdiff: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output left. Without this the interpreter reports it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Only writing the output gets here: a full disk is an error, not a difference.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"ckptdiff: the output cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 -- a bug must not exit with 1, which means "differ"
        _print_traceback()
        print("ckptdiff: this is a bug in ckptdiff, please report it", file=sys.stderr)
        return 2
    return code


def _print_traceback() -> None:
    """Print what was raised, and how; what it says may come from a file."""
    from ckptdiff.text import printable_lines

    print(printable_lines(traceback.format_exc()), end="", file=sys.stderr)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options, with the command's `run`; removes the command from `arguments`."""
    words = [word for word in arguments if not word.startswith("-")]
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if command is None and words and words[0] in COMMANDS:  # ckptdiff -v diff A B
        command = words[0]
    if command is not None:
        arguments.remove(command)
    return parser_of(command).read(arguments)


def parser_of(command: str | None) -> CommandParser:
    """Return the parser of a command, or of ckptdiff without one."""
    parser = CommandParser(
        prog="ckptdiff" if command is None else f"ckptdiff {command}",
        description="Compare a Hugging Face checkpoint with a sharded Megatron checkpoint.",
        usage=None if command else _USAGE,
        epilog=None if command else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.elsewhere = _commands_with
    parser.add_argument("-v", "--verbose", action="store_true", help="show a traceback for trouble")
    if command is None:
        parser.add_argument("--version", action="version", version=f"ckptdiff {__version__}")
    module = import_module(f"ckptdiff.cli.{command or 'screen'}")
    module.add_options(parser)
    parser.set_defaults(run=module.run)
    return parser


def _commands_with(option: str) -> list[str]:
    """Return the command lines that have an option."""
    return [f"`ckptdiff {name}`" for name in COMMANDS if option in parser_of(name).options]


_USAGE = """\
ckptdiff [PATH | A B]           browse one checkpoint, or compare two, on the screen
       ckptdiff diff A B               compare, print a summary
       ckptdiff ls PATH                list a checkpoint from its headers
       ckptdiff convert SRC OUT        convert, cut anew, cast; verified
       ckptdiff logits A B             compare the logits of one prompt: fault, or arithmetic?
       ckptdiff scores A B             compare benchmark scores: fault, or arithmetic?
       ckptdiff serve [PATH | A B]     the screen in a browser, on this machine or through ssh
       ckptdiff demo [DIR]             make a small pair with one planted fault, and open it
       ckptdiff help [TOPIC]           print a page of the guide
       ckptdiff completion SHELL       print what makes bash, zsh or fish complete a command line"""
