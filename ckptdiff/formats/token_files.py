"""The files beside a config.json that state token ids: of generation, and of the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"


def read_token_files(folder: Path, notes: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """Return the objects in those of the files that are there, by name.

    What cannot be read is noted: the weights do not depend on it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in (GENERATION, TOKENIZER):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found[name] = read_object(file)
        except CkptDiffError:
            notes.append(f"{name} cannot be read, so its token ids are not known")
    return found
