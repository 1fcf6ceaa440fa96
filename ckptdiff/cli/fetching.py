"""The option --download: fetch from the hub what a command is to open, before it does."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ckptdiff.cli.progress import ProgressBar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

SOURCES = ("a", "b", "path", "paths", "source", "like", "adapter")  # arguments that are opened


def add_download(parser: argparse.ArgumentParser) -> None:
    """Add the option to a parser whose arguments may be ids of models."""
    parser.add_argument(
        "--download", action="store_true",
        help="fetch a model that is given by its id, as org/name or org/name@revision, and not in "
        "the hub's cache",
    )  # fmt: skip


def fetch_asked(options: argparse.Namespace) -> None:
    """Fetch what is not in the hub's cache. Raises a CkptDiffError."""
    from ckptdiff.formats.hub import fetch as hub

    for path in _sources(options):
        what = hub.fetching(path)
        if what is not None:
            with ProgressBar("bytes") as bar:
                bar.begin(f"fetch {what.model}", what.nbytes)
                hub.fetch(what, _reaching(bar, f"fetch {what.model}"))


def _reaching(bar: ProgressBar, words: str) -> Callable[[int], None]:
    """Return a function that sets the bar to a number of bytes, which never becomes smaller."""
    reached, lock = 0, Lock()

    def reach(done: int) -> None:
        nonlocal reached
        with lock:  # files are fetched in several threads
            if done > reached:
                bar.advance(done - reached, words)
                reached = done

    return reach


def _sources(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the paths of a command line that are opened."""
    for name in SOURCES:
        given = getattr(options, name, None)
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, Path):
                yield path
