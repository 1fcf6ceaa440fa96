"""Format paths, durations and counts, and fit text to a width."""

from __future__ import annotations

import re
from math import ceil
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from ckptdiff.assembly.optimizer_pair import PREFIX
from ckptdiff.text import plural as plural
from ckptdiff.text import printable

if TYPE_CHECKING:
    from pathlib import Path

_NUMBERED = re.compile(r"([^.]+)\.(\d+)(?=\.)")  # the first number of a name: as a rule a layer's
LEAST_END = 6  # cells of a shortened name behind its number


def shorten(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return text of at most `width` cells; longer text loses its middle to an ellipsis."""
    if cell_len(text) <= width:
        return text
    ellipsis = ".." if ascii_only else "…"
    room = width - len(ellipsis)
    if room < 2:
        return set_cell_size(text, max(0, width))
    head = set_cell_size(text, room // 2).rstrip()
    tail = text[-(room - room // 2) :]
    while cell_len(tail) > room - room // 2:
        tail = tail[1:]
    return f"{head}{ellipsis}{tail}"


def short_name(name: str, width: int, *, ascii_only: bool = False) -> str:
    """Return a tensor's name of at most `width` cells: it keeps the layer's number and its end.

    `model.layers.12.mlp.down_proj.weight` becomes `model.layers.12.mlp.down_proj`, then
    `…layers.12.mlp.down_proj`, `…12.mlp.down_proj`, `…12…down_proj`. Of optimizer state its kind is
    kept as well.
    """
    if cell_len(name) <= width:
        return name
    name = name.removesuffix(".weight")
    if cell_len(name) <= width:
        return name
    dots = ".." if ascii_only else "…"
    kind = name.split(".")[1] if name.startswith(PREFIX) else ""
    found = _NUMBERED.search(name)
    if found is None:
        head = (kind or name[: width // 6]) + dots
        return _joined(head, name, width, ascii_only=ascii_only)
    rest = name[found.start(2) :]
    for head in (f"{kind}{dots}{found[1]}.", f"{kind}{dots}"):
        if cell_len(head + rest) <= width:
            return head + rest
    return _joined(f"{kind}{dots}{found[2]}{dots}", rest, width, ascii_only=ascii_only)


def _joined(head: str, name: str, width: int, *, ascii_only: bool) -> str:
    """Return a head and the last words of a name that fit, if they are enough to tell it by."""
    room = width - cell_len(head)
    if room < LEAST_END:
        return shorten(name, width, ascii_only=ascii_only)
    end = name[-room - 1 :]
    at = end.find(".", 0, -LEAST_END)
    return head + (end[at + 1 :] if at >= 0 else end[1:])


def fitted(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return text of exactly `width` cells: padded with blanks, or truncated with an ellipsis."""
    if cell_len(text) > width:
        ellipsis = ".." if ascii_only else "…"
        return set_cell_size(text, max(0, width - len(ellipsis))) + ellipsis
    return set_cell_size(text, width)


def short_path(path: Path) -> str:
    """Return a path with the home folder as `~`, safe to print."""
    home = path.home()
    return printable(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))


def format_duration(seconds: float) -> str:
    """Return a duration: `0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def format_eta(seconds: float) -> str:
    """Return the time that is left, rounded up: at least `1 s`."""
    return f"{max(1, ceil(seconds))} s" if seconds < 60 else format_duration(seconds)


def format_ago(seconds: float) -> str:
    """Return how long ago: `just now`, `5 min ago`, `2 h ago`, `yesterday`, `3 days ago`."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 24 * 3600:
        return f"{seconds // 3600:.0f} h ago"
    days = int(seconds // (24 * 3600))
    return "yesterday" if days == 1 else f"{days} days ago"
