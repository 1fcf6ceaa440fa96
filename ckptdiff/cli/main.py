"""The command line: parse, run the command, and report every error as one paragraph."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
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
        _say("the output is closed")
        return 2
    _raise_limits()
    try:
        try:
            options = _parse(list(sys.argv[1:] if argv is None else argv))
            if getattr(options, "download", False):
                from ckptdiff.cli.fetching import fetch_asked

                fetch_asked(options)
            code: int = options.run(options)
        finally:  # after --help too
            sys.stdout.flush()
    except CkptDiffError as error:
        from ckptdiff.cli.hints import OPTIONS
        from ckptdiff.text import printable

        if options.verbose:
            _say_trace()
        text = printable(error.with_hint(OPTIONS))
        if len(text) > 2500:  # a name in a file may have any length
            text = f"{text[:1200]} … {text[-1200:]}"
        _say(text)
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except BrokenPipeError:
        # The reader of the output left. Without this the interpreter reports it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in _OF_THE_PROCESS:
            if options.verbose:
                _say_trace()
            _say(f"{error.strerror}: {_OF_THE_PROCESS[error.errno]}")
            return 2
        # Only writing the output gets here: a full disk is an error, not a difference.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _say(f"the output cannot be written ({error.strerror})")
        return 2
    except Exception as error:  # noqa: BLE001 -- a bug must not exit with 1, which means "differ"
        known = _limit_reached(error)
        if known is None or options.verbose:
            _say_trace()
        _say(known or "this is a bug in ckptdiff, please report it")
        return 2
    return code


_OF_THE_PROCESS = {
    errno.EMFILE: "more files than this process may have open; raise the limit (ulimit -n)",
    errno.ENFILE: "more files than this system may have open; end other programs",
    errno.EAGAIN: "no more processes can be started; raise the limit (ulimit -u)",
    errno.ENOMEM: "free some memory, or raise the limit (ulimit -v)",
}
_MOST_FILES = 4096  # open at once: more are not needed, and not every program gets on with them


def _raise_limits() -> None:
    """Raise the number of files that may be open as far as is allowed and of use.

    Have a limit of processor time end the program in a sentence, a second before it would be
    killed.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if soft == hard != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CPU, (max(1, hard - 1), hard))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGXCPU, _out_of_time)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _out_of_time(*_: object) -> None:
    raise CkptDiffError("the limit of processor time is reached; raise it (ulimit -t)")


def _limit_reached(error: Exception) -> str | None:
    """Return in words which limit of the process an error comes from; None if from no known one."""
    import resource

    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and limited):
        return "memory ran out; free some, or raise its limit (ulimit -v)"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no thread can be started; raise the limit (ulimit -u)"
    return None


def _say(text: str) -> None:
    """Print a line to stderr, if it can be written: the exit code says the same."""
    with suppress(OSError):
        print(f"ckptdiff: {text}", file=sys.stderr, flush=True)


def _say_trace() -> None:
    """Print what was raised, and how; what it says may come from a file."""
    from ckptdiff.text import printable_lines

    with suppress(OSError):
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
