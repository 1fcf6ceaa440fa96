"""Where the checkpoints lie that NVIDIA's code wrote; tests that need them are skipped without."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent.parent / "shared" / "corpus"
