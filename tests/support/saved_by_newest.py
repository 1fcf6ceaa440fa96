"""A small checkpoint that megatron-core 0.19.2 wrote, and its Hugging Face folder, by plain torch.

Made by `tests.support.newest_core WHEEL save nemotron_3 FOLDER`, then packed by tar.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent.parent / "data/nemotron_3-of-megatron-core-0.19.2.tar.xz"


def unpack(folder: Path) -> tuple[Path, Path]:
    """Return the Hugging Face folder and Megatron's."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "hf", folder / "megatron"
