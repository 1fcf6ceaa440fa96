"""Which links lead out of a checkpoint, and which are the cache's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ckptdiff.formats.hub.layout import BLOBS, PREFIX, SNAPSHOTS

_MARK = ".huggingface-shared-blobs"  # in the folder of what several models hold
_HASH = re.compile(r"[0-9a-f]{64}")


def leads_out(file: Path) -> bool:
    """Return whether a file is a link out of its folder; the blobs of the hub's cache are inside.

    The cache lays each snapshot as links into the blobs of the same model, or through them into
    those that it keeps for all models. What is read may be linked from anywhere, as people link
    folders to a store. What is copied into another folder may not.
    """
    folder, real = (Path(os.path.realpath(path)) for path in (file.parent, file))
    return folder not in real.parents and not _is_blob(real, folder)


def _is_blob(real: Path, folder: Path) -> bool:
    """Return whether a file is where the cache lays what a snapshot in a folder links to."""
    homes = [home for home in folder.parents if folder.is_relative_to(home / SNAPSHOTS)]
    if real.parent.name == BLOBS and real.parent.parent in homes:
        return True
    store = real.parent.parent
    return (
        _HASH.fullmatch(real.name) is not None
        and real.parent.name == real.name[:2]
        and store.name == BLOBS
        and any(home.parent == store.parent and home.name.startswith(PREFIX) for home in homes)
        and is_store(store)
    )


def is_store(folder: Path) -> bool:
    """Return whether a folder is one in which the library keeps what several models hold."""
    return (folder / _MARK).is_file()
