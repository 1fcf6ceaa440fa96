"""The folder that a conversion writes: a name for it, and how much room there is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ckptdiff.errors import UnreadableFile
from ckptdiff.formats.megatron import iteration_of

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.conversion.plan import Target


def proposed_out(source: Checkpoint, target: Target) -> Path:
    """Return a folder beside the source that is not there yet: `llama-hf-tp2`, `run7-hf`."""
    folder = source.root.parent if source.root.is_file() else source.root
    if iteration_of(folder.name) is not None:
        folder = folder.parent  # Megatron's checkpoints are named by the folder above
    if folder.name in ("", ".."):
        folder = folder.resolve()
    name = f"{folder.name}-{_what(target)}"
    out = folder.with_name(name)
    number = 1
    while out.exists():
        number += 1
        out = folder.with_name(f"{name}-{number}")
    return out


def _what(target: Target) -> str:
    if target.to != "megatron":
        return "hf" if target.to == "hf" else "dist"
    size = target.parallelism
    parts = [f"tp{size.tp}"]
    parts += [f"{n}{getattr(size, n)}" for n in ("pp", "vpp", "ep") if getattr(size, n) > 1]
    return "-".join(parts)


def holds_anything(out: Path) -> bool:
    """Return whether a folder is there and not empty: what a conversion would replace."""
    return out.is_dir() and any(out.iterdir())


def free_bytes(out: Path) -> int:
    """Return the room for a new folder, what an unfinished conversion to it holds included.

    Raises UnreadableFile if the disk cannot be asked.
    """
    there = out.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    partial = out.with_name(f"{out.name}.partial")
    try:
        kept = sum(f.stat().st_blocks * 512 for f in partial.rglob("*") if f.is_file())
        return shutil.disk_usage(there).free + kept
    except OSError as error:
        raise UnreadableFile(f"{there}: cannot be read ({error.strerror})") from error
