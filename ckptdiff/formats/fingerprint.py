"""A digest of two checkpoints' files, by which results that were kept are known to be of them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ckptdiff import __version__
from ckptdiff.formats.stamps import stamp_of

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
            # As it was opened: it may have been written again since.
            size, written, *_ = checkpoint.stamps.get(str(file)) or stamp_of(file.stat())
            digest.update(f"{file}\0{size}\0{written}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
