"""Start the app. Textual reads the environment on import, so it is imported after setting that."""

from __future__ import annotations

import locale
import os
from typing import TYPE_CHECKING

from ckptdiff.tui import guard

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from pathlib import Path


def run(
    paths: list[Path],
    *,
    ascii: bool,  # noqa: A002
    mouse: bool,
    jobs: int | None,
    optimizer: bool = False,
    adapter: Path | None = None,
) -> int:
    """Browse one checkpoint, compare two, or ask for them; return the exit code."""
    set_up_environment(os.environ)
    if in_browser(os.environ):
        guard.end_with_parent()  # a server that is killed closes no tab
    from ckptdiff.result_cache import history_folder
    from ckptdiff.settings import settings_file
    from ckptdiff.tui.app import CkptDiffApp
    from ckptdiff.tui.workers.engine import LocalEngine

    app = CkptDiffApp(
        paths,
        engine=LocalEngine(jobs),
        settings_file=settings_file(),
        history=history_folder(),
        optimizer=optimizer,
        adapter=adapter,
        ascii_only=ascii or not draws_boxes(os.environ, locale.getencoding()),
        no_color=bool(os.environ.get("NO_COLOR")),
    )
    app.run(mouse=mouse)
    return 2 if app.return_code else 0


def set_up_environment(environ: MutableMapping[str, str]) -> None:
    """Have Textual draw less over SSH, and unset an empty NO_COLOR, which means nothing."""
    if environ.get("SSH_CONNECTION"):
        environ.setdefault("TEXTUAL_FPS", "20")
        environ.setdefault("TEXTUAL_ANIMATIONS", "none")
        environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    if not environ.get("NO_COLOR"):
        environ.pop("NO_COLOR", None)


def in_browser(environ: Mapping[str, str]) -> bool:
    """Return whether a server of textual-serve started this program, to show it in a browser."""
    return environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")


def draws_boxes(environ: Mapping[str, str], encoding: str) -> bool:
    """Return whether the terminal draws more than ASCII. The Linux console's font has no blocks.

    A browser draws all, whatever the terminal and the locale of its server are.
    """
    if in_browser(environ):
        return True
    return environ.get("TERM") != "linux" and encoding.lower().replace("-", "") == "utf8"
