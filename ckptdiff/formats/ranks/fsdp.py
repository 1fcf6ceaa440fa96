"""FSDP's files of one rank each: `model_world_size_N_rank_R.pt`, as verl and SkyRL save them.

Each is a file of torch.save with the state dict that FSDP gives that rank. Its tensors are DTensors
(FSDP2, and FSDP1 on a device mesh) or ShardedTensors (FSDP1), which state where in the whole tensor
the rank's part lies; plain tensors are on every rank alike.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Checkpoint, Chunk, Entry, Parallelism, Rank, Shard, TensorRef
from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MissingShard,
    MixedShards,
    NotACheckpoint,
)
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.files import each_file, is_file_name, read_small
from ckptdiff.formats.megatron import TRACKER
from ckptdiff.formats.model_files import read_model_files
from ckptdiff.formats.ranks.dtensor import is_dtensor, read_dtensor
from ckptdiff.formats.ranks.parts import Part, join
from ckptdiff.formats.ranks.sharded_tensor import is_sharded, read_sharded
from ckptdiff.formats.torch_state import find_weights
from ckptdiff.formats.weight_files import weights_beside
from ckptdiff.formats.wholes import addressed
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptdiff.formats.files import Progress

NAME = "fsdp"
_FILE = re.compile(r"model_world_size_(\d{1,9})_rank_(\d{1,9})\.pt$")
_BESIDE = re.compile(r"(?!model_)(\w+)_world_size_\d+_rank_\d+\.pt$")  # optimizer, random states
_MAX_NAMED = 8  # ranks that an error names


def sniff(path: Path) -> bool:
    """Return whether `path` is one rank's file, or a folder of such files."""
    if path.is_dir():
        return any(_FILE.match(child.name) for child in path.iterdir())
    return _FILE.match(path.name) is not None


def refuse_root(path: Path) -> None:
    """Raise NotACheckpoint for verl's folder of all steps: its tracker has the name of Megatron's.

    The error names the models of the step that the tracker names.
    """
    tracker = path / TRACKER
    if not tracker.is_file():
        return
    step = path / f"global_step_{read_small(tracker, 1000).decode('utf-8', 'replace').strip()}"
    if is_file_name(step.name) and step.is_dir():
        models = [child.name for child in sorted(step.iterdir()) if child.is_dir()]
        raise NotACheckpoint(
            f"{path}: holds steps of verl, of which {step.name} is the latest. Give the folder of "
            f"a model in it: {', '.join(models[:_MAX_NAMED]) or 'none is there'}"
        )


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder from the headers of all ranks' files; tensors are whole, in chunks.

    Raises MissingShard, MixedShards, CorruptFile, UnsupportedLayout, NotACheckpoint or
    UnreadableFile.
    """
    if not path.is_dir():
        match = _FILE.match(path.name)
        if match is not None and int(match[1]) != 1:
            raise NotACheckpoint(
                f"{path}: holds the part of rank {int(match[2])} of {int(match[1])}. Give the "
                "folder it is in, with the files of all ranks"
            )
    folder = path if path.is_dir() else path.parent
    files = _ranks(folder)
    by_name: dict[str, dict[Path, Part]] = {}
    notes: list[str] = []
    for rank, (file, (parts, told)) in enumerate(
        each_file(files, lambda file: _parts(file, len(files)), progress)
    ):
        notes = notes or list(told)  # the other ranks say the same of their files
        for name, part in parts.items():
            if part.rank not in (None, rank):
                raise MixedShards(
                    f"{file}: holds what rank {part.rank} saved, by {shown(name)}; copy the file "
                    f"of rank {rank} again"
                )
            by_name.setdefault(name, {})[file] = part
    _check_all_hold(files, by_name)
    wholes = {name: join(name, parts) for name, parts in by_name.items()}
    tensors, chunks = addressed(files[0], wholes)
    if len(files) > 1:
        notes.insert(0, f"put together from the parts of {len(files)} ranks")
    if others := _others(folder):
        kinds = dict.fromkeys(_BESIDE.sub(r"\1_…", name) for name in others)
        notes.append(f"not compared: {', '.join(islice(kinds, _MAX_NAMED))}")
    ignored, said = weights_beside(folder, files)
    notes += said
    beside = read_model_files(folder, notes)
    return Checkpoint(
        root=folder,
        format=NAME,
        convention="hf",
        config=beside.config,
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, tensors),),
        files=files,
        notes=tuple(notes),
        token_files=beside.token_files,
        model_folder=beside.folder,
        chunks=chunks,
        ignored=ignored,
    )


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return what the ranks' files hold beside the weights, and the files of other states."""
    found = []
    for file in checkpoint.files[:1]:
        state = find_weights(file)
        found += [
            tree.entry(name, leaf)
            for name, leaf in tree.leaves(state.weights)
            if tree.is_extra_state(name)
            or not isinstance(leaf, (TensorRef, torch_zip.UnsupportedTensor))
        ]
        for name, value in state.beside.items():
            found += tree.entries(name, value)
    return found + [Entry(name, "opaque") for name in _others(checkpoint.root)]


def _ranks(folder: Path) -> tuple[Path, ...]:
    """Return the files of all ranks in order. Raises MissingShard or MixedShards."""
    found: dict[int, dict[int, Path]] = {}
    for child in sorted(folder.iterdir()):
        if match := _FILE.match(child.name):
            found.setdefault(int(match[1]), {})[int(match[2])] = child
    if len(found) > 1:
        sizes = " and ".join(str(size) for size in sorted(found))
        raise MixedShards(
            f"{folder}: holds files of saves by {sizes} ranks; leave those of one of them here"
        )
    ((size, ranks),) = found.items()
    if beyond := [rank for rank in ranks if rank >= size]:
        raise MixedShards(f"{ranks[beyond[0]]}: is of rank {beyond[0]}, and there are {size} ranks")
    if len(ranks) < size:
        missing = list(islice((r for r in range(size) if r not in ranks), _MAX_NAMED + 1))
        more = ", …" if len(missing) > _MAX_NAMED else ""
        raise MissingShard(
            f"{folder}: the files of {size - len(ranks)} of {size} ranks are missing: rank "
            f"{', '.join(map(str, missing[:_MAX_NAMED]))}{more}. Copy them here"
        )
    return tuple(ranks[rank] for rank in range(size))


def _others(folder: Path) -> list[str]:
    """Return the names of the ranks' files that hold no weights."""
    return sorted(child.name for child in folder.iterdir() if _BESIDE.match(child.name))


def _parts(file: Path, ranks: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return what one rank's file holds of each tensor, and what it says of those that were taken.

    Errors name the file and the tensor.
    """
    found = find_weights(file)
    try:
        parts = dict(_each_part(found.weights, ranks))
    except CkptDiffError as error:
        raise type(error)(f"{file}: {error}") from error
    if not parts:
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    return parts, found.notes(file)


def _each_part(weights: dict[Any, Any], ranks: int) -> Iterator[tuple[str, Part]]:
    names = set()
    for name, leaf in tree.leaves(weights, most=None):
        if tree.is_extra_state(name):
            continue
        if name in names:
            raise CorruptFile(f"two tensors are called {shown(name)}")
        try:
            part = _part(leaf, ranks)
        except CkptDiffError as error:
            raise type(error)(f"{shown(name)}: {error}") from error
        if part is None:
            tree.check_other(name, leaf)
            continue
        names.add(name)
        chunks = tuple(Chunk(torch_zip.named(c.ref, name), c.box) for c in part.chunks)
        yield name, replace(part, chunks=chunks)


def _part(leaf: object, ranks: int) -> Part | None:
    """Return a rank's part of a tensor; None for what is none of the tensors that are known."""
    if isinstance(leaf, TensorRef):
        whole = tuple((0, size) for size in leaf.shape)
        return Part(leaf.shape, leaf.dtype, (Chunk(leaf, whole),))
    if not isinstance(leaf, torch_zip.UnsupportedTensor):
        return None
    try:
        if is_dtensor(leaf):
            return read_dtensor(leaf, ranks)
        if is_sharded(leaf):
            return read_sharded(leaf)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptFile(f"it is not what torch saves of a {leaf.what} ({error})") from error
    return None


def _check_all_hold(files: tuple[Path, ...], by_name: dict[str, dict[Path, Part]]) -> None:
    """Raise MixedShards if a tensor is not on all ranks: each has a part, if an empty one."""
    for name, parts in by_name.items():
        if len(parts) < len(files):
            lacking = next(file for file in files if file not in parts)
            raise MixedShards(
                f"{lacking}: lacks {shown(name)}, which {next(iter(parts)).name} has; the files "
                "are of different saves"
            )
