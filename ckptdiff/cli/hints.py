"""What the command line says of a way out: the option that takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.errors import CkptDiffError, Hint

OPTIONS: dict[Hint, str] = {
    "ids": "--ids needs no tokenizer",
    "no-bos": "--bos no adds none",
    "overwrite": "--overwrite replaces it",
    "allow-unmapped": "--allow-unmapped converts the rest",
    "cpu": "--device cpu computes without",
}


def paragraph(error: CkptDiffError) -> str:
    """Return what is wrong and what to do."""
    return str(error) if error.hint is None else f"{error}; {OPTIONS[error.hint]}"
