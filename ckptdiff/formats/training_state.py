"""What accelerate and the Trainer save beside a model's weights to go on with a training run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.formats.ranks.deepspeed_files import deepspeed_beside
from ckptdiff.text import printable

if TYPE_CHECKING:
    from pathlib import Path

# Sources: accelerate.utils.constants, transformers.trainer.
_STATE = re.compile(
    r"(?:(?:optimizer|scheduler)(?:_\d+)?(?:\.bin|\.pt)?|scaler\.pt|(?:sampler|dl_state_dict)"
    r"(?:_\d+)?\.bin|(?:random_states|custom_checkpoint)_\d+\.pkl|rng_state(?:_\d+)?\.pth"
    r"|pytorch_model_fsdp_\d+)$"
)
_SHARDED = "pytorch_model_fsdp_"  # the folder of a model
_MAX_NAMED = 5


def is_training_state(file: Path) -> bool:
    """Return whether a file or folder holds the state of a run and no weights, by its name."""
    return _STATE.match(file.name) is not None and not file.name.startswith(_SHARDED)


def notes_on_training(folder: Path) -> list[str]:
    """Return notes that name what else a training run saved in a folder of weights."""
    notes = []
    if found := sorted(child.name for child in folder.iterdir() if _STATE.match(child.name)):
        more = ", …" if len(found) > _MAX_NAMED else ""
        notes.append(f"also here, not compared: {', '.join(found[:_MAX_NAMED])}{more}")
    if deepspeed := deepspeed_beside(folder):
        notes.append(f"also here, not read: the DeepSpeed checkpoint {printable(deepspeed)}")
    return notes
