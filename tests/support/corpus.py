"""Where the checkpoints lie that NVIDIA's code wrote; tests that need them are skipped without."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

REPOSITORY = Path(__file__).resolve().parents[2]
_USUAL = REPOSITORY.parent / "shared/corpus"
CORPUS = Path(os.environ.get("CKPTDIFF_CORPUS") or _USUAL).absolute()
FAULTS = CORPUS.parent / "faults"  # the benchmark of planted faults

# Why a test is skipped. The end of a run counts these and says what to do about them.
NO_CORPUS = f"needs the corpus: {CORPUS} is not there"
NO_FAULTS = f"needs the fault benchmark: {FAULTS} is not there"


def from_corpus(cases: Iterable[Any], *, values: int = 1, reason: str = NO_CORPUS) -> list[Any]:
    """Return the cases found on disk, or one that is skipped and says why there are none."""
    found = list(cases)
    skipped = pytest.param(*[None] * values, marks=pytest.mark.skip(reason=reason), id="none")
    return found or [skipped]


def benchmark() -> list[Any]:
    """Return what was planted in each case of the fault benchmark, as cases of a test."""
    index = FAULTS / "index.json"
    rows: list[dict[str, Any]] = json.loads(index.read_text()) if index.exists() else []
    return from_corpus([pytest.param(row, id=row["id"]) for row in rows], reason=NO_FAULTS)


def reference(row: dict[str, Any]) -> Path:
    """Return the Hugging Face folder that a case of the benchmark was made from."""
    # The index calls the corpus by the name that it had when the benchmark was made.
    return CORPUS / Path(row["hf"]).relative_to("corpus")
