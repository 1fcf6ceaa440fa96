"""Where the checkpoints lie that NVIDIA's code wrote; tests that need them are skipped without."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("CKPTDIFF_CORPUS") or REPOSITORY.parent / "shared/corpus")
