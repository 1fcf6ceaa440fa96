"""Say what a path is that no format opens: a save that died, one rank's parts, other programs'."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.files import is_file_name, read_small
from ckptdiff.formats.training_state import is_training_state
from ckptdiff.formats.unfinished import why_unfinished
from ckptdiff.formats.weight_files import torch_files

if TYPE_CHECKING:
    from pathlib import Path

_MAX_NAMED = 5  # files that a sentence names
_MAX_CHILDREN = 1000  # entries of a folder that are looked at
_OF_META = re.compile(r"consolidated\.\d+\.pth$")
_MAX_TRACKER = 255  # bytes of a file that names a folder, such as `latest`
_GENERAL = (
    "is no checkpoint. A Hugging Face folder holds *.safetensors, pytorch_model*.bin or one file "
    "of torch.save, Meta's consolidated.00.pth and params.json, a Megatron one "
    "latest_checkpointed_iteration.txt or mp_rank_00, a distributed one (torch_dist, DCP) .metadata"
)


def _folder_named_by(file: Path) -> Path | None:
    """Return the folder that a small text file beside it names, as `latest` of a trainer does."""
    with suppress(OSError, UnicodeDecodeError, CkptDiffError):
        name = read_small(file, _MAX_TRACKER).decode().strip()
        if is_file_name(name) and (file.parent / name).is_dir():
            return file.parent / name
    return None


def _links_to_nothing(folder: Path) -> list[str]:
    """Return the names of the links in a folder that lead to nothing."""
    with suppress(OSError):
        children = islice(folder.iterdir(), _MAX_CHILDREN)
        return sorted(c.name for c in children if c.is_symlink() and not c.exists())
    return []


def why_no_checkpoint(path: Path) -> str:
    """Return a sentence on what a path holds instead of a checkpoint, and what to do."""
    if path.suffix == ".distcp":
        return f"{path}: is one file of a distributed checkpoint. Give the folder it is in"
    if not path.is_dir():
        named = _folder_named_by(path)
        if named is None:
            return f"{path}: {_GENERAL}"
        died = why_unfinished(named)
        return f"{path}: names a folder. {died}" if died else f"{path}: names {named}. Give that"
    died = why_unfinished(path)
    if died is not None:
        return died
    found = torch_files(path)
    broken = _links_to_nothing(path)
    if broken and not found:
        names = ", ".join(broken[:_MAX_NAMED])
        return f"{path}: holds links to what is not there: {names}. Put the files in their place"
    if len(found) > 1 and all(_OF_META.match(file.name) for file in found):
        return (
            f"{path}: holds {len(found)} of Meta's files, {found[0].name} first, and no "
            "params.json, which says how they are split. Copy it there"
        )
    if found and all(map(is_training_state, found)):
        names = ", ".join(file.name for file in found[:_MAX_NAMED])
        return f"{path}: holds the state of a training run, {names}, and no weights. Give those"
    if found:
        names = ", ".join(file.name for file in found[:_MAX_NAMED])
        more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        return f"{path}: holds several files of torch.save: {names}{more}. Give one of them"
    return f"{path}: {_GENERAL}"
