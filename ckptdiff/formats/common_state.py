"""What a distributed checkpoint says of the run that wrote it: args, iteration, and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.formats import torch_zip
from ckptdiff.formats.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.formats.dcp import Place

COMMON = "common.pt"
# From megatron-core 0.17 on there is no common.pt: one object among the chunks holds all of it.
OBJECT = "common_state/shard_0_1"
# Megatron-FSDP's checkpoints hold each of these as an object of its own.
ENTRIES = ("args", "iteration", "checkpoint_version")


def read_common(root: Path, opaque: Mapping[str, Place | None]) -> dict[Any, Any]:
    """Return what is stored beside the tensors, from wherever this release of Megatron keeps it.

    `opaque` are the entries of `.metadata` that are no tensors. Raises CorruptFile, UnreadableFile
    or MissingShard.
    """
    common: Any = {}
    if (root / COMMON).exists():
        common = torch_zip.read_index(root / COMMON)
    elif place := opaque.get(OBJECT):
        common = read_object(root, place)
        # A sharded object is saved as the list of what its ranks hold.
        common = common[0] if isinstance(common, list) and len(common) == 1 else common
    found = common if isinstance(common, dict) else {}
    for name in ENTRIES:
        if name not in found and (place := opaque.get(name)):
            found[name] = read_object(root, place)
    return found


def read_object(root: Path, place: Place) -> Any:
    """Return an object that lies among the chunks of tensors."""
    file = root / place.file
    with open_regular(file) as fd:
        return torch_zip.read_blob(file, fd, place.start, place.length)
