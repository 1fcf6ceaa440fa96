"""A digest of two checkpoints' files, by which results that were kept are known to be of them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ckptdiff import __version__

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Checkpoint


def fingerprint(a: Checkpoint, b: Checkpoint, how: str) -> str:
    """Return a digest that changes whenever a file, a config, `how` or the release does.

    `how` says how the two are compared. Of files, path, size and modification time count; their
    content is not read. Raises OSError.
    """
    digest = hashlib.sha256(f"{__version__} {how}\n".encode())
    for checkpoint in (a, b):
        digest.update(f"{checkpoint.root.absolute()}\n".encode("utf-8", "surrogateescape"))
        config = json.dumps(checkpoint.config, sort_keys=True, default=repr)
        digest.update(f"{config}\n".encode())
        for file in sorted(checkpoint.files):
            stat = file.stat()
            digest.update(
                f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()
