"""Tell a distributed save that died: its tensors are there, and the index written last is not."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

METADATA = ".metadata"  # of a distributed checkpoint: torch_dist, or plain DCP
_MAX_CHILDREN = 200  # entries of a folder that are looked at
_MAX_NAMED = 5  # folders that a sentence names


def why_unfinished(folder: Path) -> str | None:
    """Return a sentence if a folder is what a distributed save left that died; None if not.

    `.metadata` is what such a save writes last.
    """
    if (folder / METADATA).exists() or next(folder.glob("*.distcp"), None) is None:
        return None
    complete = _complete_beside(folder)
    hint = (
        f"{', '.join(complete)} beside it {'is' if len(complete) == 1 else 'are'} complete"
        if complete
        else "give a checkpoint of another step"
    )
    return f"{folder}: holds .distcp files and no .metadata: the save was never finished; {hint}"


def dead_saves(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that a distributed save left that died."""
    found: list[Path] = []
    with suppress(OSError):
        children = sorted(folder.iterdir())[:_MAX_CHILDREN]
        found += (child for child in children if child.is_dir() and why_unfinished(child))
    return [child.name for child in sorted(found, key=_step_of)[-_MAX_NAMED:]]


def _complete_beside(folder: Path) -> list[str]:
    """Return the names of the folders beside a folder that hold `.metadata`, the newest last."""
    real = folder.resolve()
    found: list[Path] = []
    with suppress(OSError):
        beside = sorted(real.parent.iterdir())[:_MAX_CHILDREN]
        found += (child for child in beside if child != real and (child / METADATA).exists())
    return [child.name for child in sorted(found, key=_step_of)[-_MAX_NAMED:]]


def _step_of(folder: Path) -> tuple[int, str]:
    """Return a sort key of a folder: the last number in its name, then the name."""
    numbers = re.findall(r"\d+", folder.name)
    return (int(numbers[-1]) if numbers else -1, folder.name)
