"""What a checkpoint's files were when they were saved: the hashes that Megatron writes beside them.

From megatron-core 0.19 on, `--verify-integrity` writes `integrity.json` into the folder of an
iteration: the SHA-256 of each file that lies there by then.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.files import is_file_name, open_regular
from ckptdiff.formats.inert import told
from ckptdiff.formats.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INTEGRITY = "integrity.json"
ALGORITHM = "sha256"  # the only one that any release writes
ASKED_FOR = "verify_integrity"  # the arg of a run that writes the hashes
_BLOCK = 1 << 20  # bytes that are hashed at a time
_DIGEST = re.compile(r"[0-9a-f]{64}")


def saved_hashes(root: Path, args: Mapping[str, Any]) -> tuple[dict[Path, str], tuple[str, ...]]:
    """Return the SHA-256 of each file when it was saved, and notes for the user.

    Where they cannot be had, though they are there or were asked for, a note says so.
    """
    file = root / INTEGRITY
    if not file.exists():
        if args.get(ASKED_FOR) is not True:
            return {}, ()
        why = f"{INTEGRITY} is not there, though args ask for it"
        return {}, (_unchecked(why),)
    try:
        stated = read_object(file)
    except CkptDiffError as error:
        return {}, (_unchecked(str(error)),)
    algorithm, files = stated.get("algorithm", ALGORITHM), stated.get("files")
    if algorithm != ALGORITHM:
        return {}, (_unchecked(f"{INTEGRITY} has hashes by {told(algorithm)}, not {ALGORITHM}"),)
    if not isinstance(files, dict) or not all(map(_is_hash, files.keys(), files.values())):
        return {}, (_unchecked(f"{INTEGRITY} is not what Megatron writes"),)
    return {root / name: digest for name, digest in files.items()}, ()


def hash_of(file: Path) -> str:
    """Return the SHA-256 of a file. Raises MissingShard or UnreadableFile."""
    digest = hashlib.sha256()
    with open_regular(file) as fd:
        # No further than it reaches now: something may be writing to it.
        left = os.fstat(fd).st_size
        block = memoryview(bytearray(min(_BLOCK, max(1, left))))
        while left and (count := os.readv(fd, [block[:left]])):
            digest.update(block[:count])
            left -= count
    return digest.hexdigest()


def _is_hash(name: str, digest: object) -> bool:
    return is_file_name(name) and isinstance(digest, str) and bool(_DIGEST.fullmatch(digest))


def _unchecked(why: str) -> str:
    return f"{why}: no file is held against what was saved"
