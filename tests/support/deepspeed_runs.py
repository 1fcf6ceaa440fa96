"""The checkpoints that DeepSpeed wrote (`tests/data/deepspeed/make.py`), unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path

_DATA = Path(__file__).parent.parent / "data" / "deepspeed" / "checkpoints.tar.xz"
STEP = "global_step2"  # the folder that every `latest` names
OPTIMIZER = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
PART = "zero_pp_rank_{}_mp_rank_00_model_states.pt"  # of ZeRO-3
MODEL = "mp_rank_00_model_states.pt"


def unpack(folder: Path, run: str = "") -> Path:
    """Write all runs, or one, into a folder, each under its name; return the folder."""
    with tarfile.open(_DATA) as packed:
        found = [one for one in packed if not run or one.name.startswith(f"{run}/")]
        packed.extractall(folder, found, filter="data")
    return folder
