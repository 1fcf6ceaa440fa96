"""The folder that a conversion writes: a proposed name, whether it is empty, free space."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.conversion.partial.folder import partial_of
from ckptdiff.errors import UnreadableFile
from ckptdiff.formats.megatron import iteration_of

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.conversion.plan import Target


def proposed_out(source: Checkpoint, target: Target) -> Path:
    """Return a path beside the source that does not exist yet: `llama-hf-tp2`, `run7-hf`.

    Of a model in the hub's cache it is in the current folder, and named after the model.
    """
    folder = source.root.parent if source.root.is_file() else source.root
    if source.hub is not None:
        folder = Path(source.hub.id.rpartition("/")[2])
    if iteration_of(folder.name) is not None:
        folder = folder.parent  # `iter_0001000`: the folder above names the model
    if folder.name in ("", ".."):
        folder = folder.resolve()
    name = f"{folder.name}-{_suffix(target)}"
    out = folder.with_name(name)
    number = 1
    while out.exists():
        number += 1
        out = folder.with_name(f"{name}-{number}")
    return out


def _suffix(target: Target) -> str:
    """Return what names a target: `hf`, `dist`, `tp2-pp4`."""
    if target.to != "megatron":
        return "hf" if target.to == "hf" else "dist"
    size = target.parallelism
    parts = [f"tp{size.tp}"]
    parts += [f"{n}{getattr(size, n)}" for n in ("pp", "vpp", "ep") if getattr(size, n) > 1]
    return "-".join(parts)


def holds_anything(out: Path) -> bool:
    """Return whether a folder exists and is not empty: a conversion would replace it."""
    return out.is_dir() and any(out.iterdir())


def free_bytes(out: Path) -> int:
    """Return the bytes free for `out`, including those of its unfinished conversion.

    Raises UnreadableFile if the file system does not answer.
    """
    existing = out.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    partial = partial_of(out)
    try:
        held = (partial / at / name for at, _, names in os.walk(partial) for name in names)
        kept = sum(file.lstat().st_blocks * 512 for file in held)
        return shutil.disk_usage(existing).free + kept
    except OSError as error:
        raise UnreadableFile(f"{existing}: cannot be read ({error.strerror})") from error
