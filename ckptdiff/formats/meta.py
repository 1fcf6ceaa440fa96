"""Meta's own format: a consolidated.NN.pth per model-parallel rank, and params.json."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard
from ckptdiff.errors import MissingShard, MixedShards
from ckptdiff.formats import hf, tree
from ckptdiff.formats.files import each_file
from ckptdiff.formats.json_files import read_object
from ckptdiff.text import shown

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.formats.files import Progress

NAME = "meta"
PARAMS = "params.json"
MAX_FILES = 10_000
_WEIGHTS = re.compile(r"consolidated(?:\.(\d+))?\.(pth|safetensors)$")


def sniff(path: Path) -> bool:
    """Return whether `path` holds consolidated weights and params.json, or is such a file.

    A folder that also holds Hugging Face weights is not Meta's: hubs store both formats together.
    """
    if not path.is_dir():
        return _WEIGHTS.match(path.name) is not None and (path.parent / PARAMS).exists()
    if not (path / PARAMS).exists():
        return False
    names = [child.name for child in path.iterdir()]
    others = any(
        name.endswith((".safetensors", ".safetensors.index.json", ".bin"))
        and not name.startswith("consolidated")
        for name in names
    )
    return not others and any(map(_WEIGHTS.match, names))


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder, or the folder of one of its files, from the headers alone.

    Raises MissingShard, MixedShards, CorruptFile, NotACheckpoint or UnreadableFile.
    """
    folder = path if path.is_dir() else path.parent
    files = _weight_files(folder)
    params = read_object(folder / PARAMS)
    shards = tuple(
        Shard(Rank(rank), 0, tensors)
        for rank, (_, tensors) in enumerate(each_file(files, hf.read_weights, progress))
    )
    for shard in shards[1:]:
        odd = sorted(shard.tensors.keys() ^ shards[0].tensors.keys())
        if odd:
            raise MixedShards(
                f"{files[shard.rank.tp]}: {shown(odd[0])} is not in every one of the {len(files)} "
                "files; copy all files of one model"
            )
    return Checkpoint(
        root=folder,
        format=NAME,
        convention="meta",
        config=params,
        parallelism=Parallelism(tp=len(files)),
        shards=shards,
        files=tuple(files),
    )


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return the settings of params.json as entries."""
    return [tree.entry(f"params.{key}", value) for key, value in (checkpoint.config or {}).items()]


def _weight_files(folder: Path) -> list[Path]:
    """Return the ranks' files in order.

    Raises MissingShard if a number is left out, MixedShards if two files are of the same rank.
    """
    found: dict[int, Path] = {}
    for child in sorted(folder.iterdir()):
        match = _WEIGHTS.match(child.name)
        if match is not None:
            rank = int(match[1] or 0)
            if rank in found:
                raise MixedShards(
                    f"{folder}: {found[rank].name} and {child.name} are both rank {rank}; keep one"
                )
            found[rank] = child
    if max(found) >= MAX_FILES:
        raise MissingShard(
            f"{found[max(found)]}: is rank {max(found)}, and there are {len(found)} files"
        )
    missing = sorted(set(range(max(found) + 1)) - found.keys())
    if missing:
        raise MissingShard(
            f"{folder}: found {len(found)} of {max(found) + 1} files; missing are "
            f"{', '.join(f'consolidated.{n:02d}' for n in missing[:8])}"
        )
    return [found[rank] for rank in sorted(found)]
