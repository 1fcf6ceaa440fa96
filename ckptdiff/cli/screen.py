"""ckptdiff without a command: show one checkpoint, or compare two, on the screen."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ckptdiff.cli.arguments import ADAPTER_HELP, JOBS_HELP, OPTIMIZER_HELP, positive
from ckptdiff.cli.fetching import add_download
from ckptdiff.errors import BadArgument, NotACheckpoint


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the screen to a parser."""
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="one or two checkpoints"
    )
    add_drawing_options(parser)
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument("--optimizer", action="store_true", help=OPTIMIZER_HELP)
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=ADAPTER_HELP.format("A"))
    add_download(parser)


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that opens the screen."""
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")


def has_terminal() -> bool:
    """Return whether there is one to draw on: of this process, or in a browser."""
    from ckptdiff.tui.launch import in_browser

    return in_browser(os.environ) or (sys.stdin.isatty() and sys.stdout.isatty())


def run(options: argparse.Namespace) -> int:
    """Open the screen; without a terminal, do as `diff` or `ls`. Return the exit code.

    Raises NotACheckpoint for a path that does not exist, BadArgument for too many paths or none.
    """
    check_paths(options.paths)
    if options.adapter is not None and len(options.paths) != 2:
        raise BadArgument("--adapter: is added to the first of two checkpoints: give both")
    if not has_terminal():
        return _run_plain(options)
    return show(options.paths, options)


def check_paths(paths: list[Path]) -> None:
    """Raise NotACheckpoint for a path that is nowhere, BadArgument for more than two."""
    missing, trouble = None, None
    for path in paths:
        if path.exists():
            continue
        # Not before: the process that waits for the screen has no use for the formats.
        from ckptdiff.formats.hub.lookup import located

        try:
            located(path)
        except NotACheckpoint as error:
            missing, trouble = path, error
            break
    asked = "" if missing is None else _suggestion(str(missing))
    if len(paths) > 2 and not asked:
        raise BadArgument(
            f"{len(paths)} paths: two at most. Give one to browse it, or two to compare"
        )
    if asked:
        raise NotACheckpoint(f"{missing}: there is no such file or folder{asked}")
    if trouble is not None:
        raise trouble


def show(paths: list[Path], options: argparse.Namespace) -> int:
    """Open the screen, drawn as the options say; return the exit code."""
    from ckptdiff.tui import guard, launch

    if launch.in_browser(os.environ):
        return _show(paths, options)
    return guard.run_guarded(lambda: _show(paths, options))


def _show(paths: list[Path], options: argparse.Namespace) -> int:
    from ckptdiff.tui import launch

    _start_resource_tracker()
    return launch.run(
        paths,
        ascii=options.ascii,
        mouse=not options.no_mouse,
        jobs=options.jobs,
        optimizer=options.optimizer,
        adapter=getattr(options, "adapter", None),
    )


def _start_resource_tracker() -> None:
    """Start the process that cleans up after process pools, which must not write on the terminal.

    A pool made while the app runs cannot: Textual replaces stderr by an object that has no file
    descriptor to inherit.
    """
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    # Of pools that a killed program left, which it then cleans up.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _run_plain(options: argparse.Namespace) -> int:
    """Run `diff` for two checkpoints, `ls` for one. Raises BadArgument for none."""
    from ckptdiff.cli import diff, ls

    flags = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    flags += ["--optimizer"] if options.optimizer else []
    flags += [f"--adapter={options.adapter}"] if options.adapter is not None else []
    parser = argparse.ArgumentParser()
    paths = map(str, options.paths)
    if len(options.paths) == 2:
        diff.add_options(parser)
        return diff.run(parser.parse_args([*flags, "--", *paths]))
    if len(options.paths) == 1:
        ls.add_options(parser)
        return ls.run(parser.parse_args(["--", *paths]))
    raise BadArgument("there is no terminal to draw on; see ckptdiff --help for the commands")


def _suggestion(word: str) -> str:
    """Return a question to append if `word` is nearly the name of a command, else nothing."""
    from difflib import get_close_matches

    from ckptdiff.cli.main import COMMANDS

    found = get_close_matches(word, COMMANDS, n=1)
    return f". Is `ckptdiff {found[0]}` meant?" if found else ""
