"""Hugging Face checkpoints: safetensors or torch.save files, one or many, and config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard, TensorRef
from ckptdiff.errors import CkptDiffError, CorruptFile, MixedShards, NotACheckpoint
from ckptdiff.formats import safetensors
from ckptdiff.formats.files import each_file, is_there
from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.token_files import read_token_files
from ckptdiff.formats.torch_state import StateDict, names_beside, read_state_dict
from ckptdiff.formats.training_state import notes_on_training
from ckptdiff.formats.weight_files import (
    PATTERNS,
    Chosen,
    by_index,
    check_promised,
    choose,
    has_named_weights,
    has_weights,
    is_index,
    kind_of,
    sole_torch_files,
)
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.formats.files import Progress

NAME = "hf"
MANY_FILES = 50  # fewer are read so fast that nothing needs to be shown before
_SUFFIXES = (".safetensors", ".bin")  # a file of another name is told by its content
_MAX_NAMED = 5  # of what lies beside the weights in a file of torch.save


def sniff(path: Path) -> bool:
    """Return whether `path` is a Hugging Face folder, one of its weight files or its index."""
    if path.is_dir():
        return has_weights(path) and not _is_outer(path)
    if path.suffix == ".distcp":  # begins as a file of torch.save, and holds many
        return False
    return path.suffix in _SUFFIXES or is_index(path) or kind_of(path) is not None


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder, an index or a single weight file from its headers.

    Raises MissingShard, CorruptFile, MixedShards, UnsupportedLayout, NotACheckpoint or
    UnreadableFile.
    """
    folder = path if path.is_dir() else path.parent
    config_file = folder / "config.json"
    config = read_object(config_file) if is_there(config_file) else None
    if path.is_dir():
        chosen = choose(folder, config or {})
    else:
        chosen = by_index(path) if is_index(path) else Chosen((path,))
    notes = list(chosen.notes)
    tensors: dict[str, TensorRef] = {}
    for file, state in each_file(chosen.files, _read, progress):
        if repeated := state.tensors.keys() & tensors.keys():
            name = min(repeated)
            raise MixedShards(
                f"{shown(name)} is in both {tensors[name].file} and {file}; give one of the files, "
                "or move what does not belong here"
            )
        tensors |= state.tensors
        notes += state.notes
        if beside := names_beside(state):
            more = ", …" if len(beside) > _MAX_NAMED else ""
            notes.append(
                f"also in {file.name}, not compared: {', '.join(beside[:_MAX_NAMED])}{more}"
            )
    check_promised(chosen, tensors)
    if chosen.weight_map is not None:
        _check_index(folder, chosen.weight_map, tensors)
    if config is None:
        notes.append("no config.json beside the weights")
    if path.is_dir():
        notes += notes_on_training(path)
    token_files = read_token_files(folder, notes)
    return Checkpoint(
        root=folder if is_index(path) else path,
        format=NAME,
        convention="hf",
        config=config,
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, tensors),),
        files=chosen.files,
        notes=tuple(notes),
        ignored=chosen.ignored,
        stale_index=chosen.stale_index,
        token_files=token_files,
    )


def _is_outer(folder: Path) -> bool:
    """Return whether a folder's only file of torch.save has no weights, and folders are beside it.

    So trainers keep the state of the data beside the folders of their models.
    """
    if has_named_weights(folder) or not any(child.is_dir() for child in folder.iterdir()):
        return False
    files = sole_torch_files(folder)
    try:
        return len(files) == 1 and not read_state_dict(files[0]).tensors
    except NotACheckpoint:
        return True
    except CkptDiffError:
        return False


def open_first(path: Path) -> Checkpoint | None:
    """Open the first safetensors file of a folder that has many; None for any other path."""
    files = sorted(path.glob(PATTERNS[0])) if path.is_dir() else []
    return open(files[0]) if len(files) >= MANY_FILES else None


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return what files of torch.save hold beside the weights; safetensors hold only those."""
    files = [file for file in checkpoint.files if kind_of(file) == "torch"]
    return [entry for file in files for entry in read_state_dict(file).beside]


def _check_index(
    folder: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorRef]
) -> None:
    for name, file in weight_map.items():
        ref = tensors.get(name)
        if ref is None or ref.file.name != file:
            where = "is in no file" if ref is None else f"is in {ref.file.name}"
            raise CorruptFile(f"{folder}: the index puts {shown(name)} into {file}, but it {where}")


def read_weights(file: Path) -> dict[str, TensorRef]:
    """Return the tensors of one safetensors or torch.save file by name.

    Raises CorruptFile, UnreadableFile, UnsupportedLayout, or NotACheckpoint if it holds no
    dictionary of tensors.
    """
    return _read(file).tensors


def _read(file: Path) -> StateDict:
    """Return what a file holds; which of the two formats it has is told by its content."""
    if file.suffix == ".safetensors" or kind_of(file) == "safetensors":
        return StateDict(safetensors.read_header(file), ())
    return read_state_dict(file)
