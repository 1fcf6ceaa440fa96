"""The program without a command: one checkpoint or two on the screen."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ckptdiff.cli.arguments import JOBS_HELP, OPTIMIZER_HELP, positive
from ckptdiff.errors import BadArgument, NotACheckpoint


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the screen takes to a parser."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="one or two checkpoints"
    )
    add_drawing_options(parser)
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument("--optimizer", action="store_true", help=OPTIMIZER_HELP)


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that opens the screen takes."""
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")


def has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def run(options: argparse.Namespace) -> int:
    """Open the screen; where there is no terminal, compare or list what was given."""
    for path in options.paths:
        if not path.exists():
            raise NotACheckpoint(f"{path}: there is no such file or folder{_meant(str(path))}")
    if len(options.paths) > 2:
        raise BadArgument(f"{len(options.paths)} paths: give one to browse, or two to compare")
    if not has_terminal():
        return _print(options)
    return show(options.paths, options)


def show(paths: list[Path], options: argparse.Namespace) -> int:
    """Open the screen, drawn as the options say."""
    # A process pool made inside the running app fails without this: Textual replaces stderr by
    # something that has no file descriptor to inherit.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    from ckptdiff.tui import launch as app

    return app.run(
        paths,
        ascii=options.ascii,
        mouse=not options.no_mouse,
        jobs=options.jobs,
        optimizer=options.optimizer,
    )


def _print(options: argparse.Namespace) -> int:
    """Do as `diff` does with two checkpoints, as `ls` does with one."""
    from ckptdiff.cli import diff, ls

    more = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    more += ["--optimizer"] if options.optimizer else []
    parser = argparse.ArgumentParser()
    paths = map(str, options.paths)
    if len(options.paths) == 2:
        diff.add_options(parser)
        return diff.run(parser.parse_args([*more, "--", *paths]))
    if len(options.paths) == 1:
        ls.add_options(parser)
        return ls.run(parser.parse_args(["--", *paths]))
    raise BadArgument("there is no terminal to draw on; see ckptdiff --help for the commands")


def _meant(word: str) -> str:
    """Return a question if this is nearly the name of a command."""
    from difflib import get_close_matches

    from ckptdiff.cli.main import COMMANDS

    found = get_close_matches(word, COMMANDS, n=1)
    return f". Is `ckptdiff {found[0]}` meant?" if found else ""
