"""Checkpoints that several ranks saved with PyTorch's own FSDP, made once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from shutil import copy, copytree
from typing import TYPE_CHECKING

from tests.support.corpus import REPOSITORY
from tests.support.oracle_hf import make_hf
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

# Uneven everywhere: 7 ranks leave some without a part of a matrix of 16 rows.
JOBS = (
    "fsdp2:2", "fsdp2:7", "hsdp:4", "fsdp+tp:6", "fsdp1:3", "fsdp1-without-mesh:3", "fsdp2/hf:3",
    "fsdp+tp/hf:4", "hsdp/hf:4",
)  # fmt: skip


def save_by_ranks(python: str, model: Path, out: Path, *jobs: str) -> None:
    """Have ranks save a model, each job into a folder of its name."""
    done = subprocess.run(
        [python, "-m", "tests.support.gloo_ranks", str(model), str(out), *jobs],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class SavedByRanks:
    """A Hugging Face folder, and the same model as ranks saved it."""

    def __init__(self, root: Path) -> None:
        self.hf = root / "hf"
        self.root = root
        make_hf(self.hf, single=True)
        save_by_ranks(sys.executable, self.hf / "model.safetensors", root / "saved", *JOBS)
        for folder in (root / "saved").iterdir():
            copy(self.hf / "config.json", folder)

    def __call__(self, job: str) -> Path:
        """Return the folder that a job saved. It is shared: copy before changing it."""
        return self.root / "saved" / job.replace("/", "-")

    def own(self, job: str, to: Path) -> Path:
        """Return a copy of a folder that may be changed."""
        return copytree(self(job), to / "own")
