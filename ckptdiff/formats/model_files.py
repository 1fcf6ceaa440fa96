"""The config.json and the tokenizer of a model whose weights a training program saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.token_files import read_token_files
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "config.json"
INNER = "huggingface"  # verl's folder of the config and the tokenizer
_ABOVE = 2  # folders: checkpoint-N of the Trainer, and that of its run


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is stated of a model beside its weights, and in which folder."""

    folder: Path | None = None  # None: there is no config.json
    config: Mapping[str, Any] | None = None
    token_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_model_files(root: Path, notes: list[str]) -> ModelFiles:
    """Return what lies beside the weights in `root`, and add to `notes` from where it is.

    Training programs write it into the folder of the weights, above it, or not at all.
    """
    folder = _config_folder(root)
    if folder is None:
        notes.append(f"no {CONFIG} beside the weights")
        return ModelFiles()
    if folder != root:
        notes.append(f"its config is that of {printable(str(folder / CONFIG))}")
    return ModelFiles(folder, read_object(folder / CONFIG), read_token_files(folder, notes))


def _config_folder(root: Path) -> Path | None:
    """Return the nearest folder with a config.json: `root`, one above it, or INNER in these."""
    inside = root.absolute()
    for folder in (inside, *inside.parents[:_ABOVE]):
        for place in (folder, folder / INNER):
            if (place / CONFIG).is_file():
                return root if place == inside else place
    return None
