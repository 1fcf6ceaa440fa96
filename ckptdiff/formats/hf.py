"""Hugging Face checkpoints: safetensors or torch.save files, one or many, and config.json."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard, TensorRef
from ckptdiff.errors import CorruptFile, MissingShard, MixedShards, NotACheckpoint
from ckptdiff.formats import safetensors, torch_zip
from ckptdiff.formats.files import each_file, read_small

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.formats.files import Progress

NAME = "hf"
MAX_JSON = 500_000_000  # bytes
MANY_FILES = 50  # to read fewer takes no time worth showing something before
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin)$")


def sniff(path: Path) -> bool:
    """Return whether `path` is a Hugging Face folder or one of its weight files."""
    if path.is_dir():
        return any((path / index).exists() for index in INDICES) or any(
            next(path.glob(pattern), None) for pattern in PATTERNS
        )
    return path.suffix in (".safetensors", ".bin")


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder or a single file from its headers.

    Raises MissingShard, CorruptFile, MixedShards or UnreadableFile.
    """
    folder = path if path.is_dir() else path.parent
    notes: list[str] = []
    weight_map: dict[str, str] | None = None
    if path.is_dir():
        files, weight_map = _weight_files(path, notes)
    else:
        files = [path]
    tensors: dict[str, TensorRef] = {}
    for file, header in each_file(files, read_weights, progress):
        if twice := header.keys() & tensors.keys():
            name = min(twice)
            raise MixedShards(f"{name!r} is in both {tensors[name].file} and {file}")
        tensors |= header
    if weight_map is not None:
        _check_index(folder, weight_map, tensors)
    config_file = folder / "config.json"
    config = read_object(config_file) if config_file.exists() else None
    if config is None:
        notes.append("no config.json beside the weights")
    return Checkpoint(
        root=path,
        format=NAME,
        convention="hf",
        config=config,
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, tensors),),
        files=tuple(files),
        notes=tuple(notes),
    )


def open_first(path: Path) -> Checkpoint | None:
    """Open the first safetensors file of a folder that has many; None for any other path."""
    files = sorted(path.glob(PATTERNS[0])) if path.is_dir() else []
    return open(files[0]) if len(files) >= MANY_FILES else None


def read_entries(checkpoint: Checkpoint) -> list[Entry]:  # noqa: ARG001 -- the formats' interface
    """Hugging Face files hold nothing beside the weights."""
    return []


def _weight_files(folder: Path, notes: list[str]) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files that transformers would load, and the index that names them."""
    for index, pattern in zip(INDICES, PATTERNS, strict=True):
        found = sorted(folder.glob(pattern))
        if (folder / index).exists():
            weight_map = _read_weight_map(folder / index)
            files = [folder / name for name in sorted(set(weight_map.values()))]
            missing = [file.name for file in files if not file.exists()]
            if missing:
                raise MissingShard(
                    f"{folder / index}: {len(missing)} of {len(files)} files are missing: "
                    f"{', '.join(missing[:5])}. Copy them beside the index."
                )
            if other := [file.name for file in found if file not in files]:
                notes.append(f"not in {index}, ignored: {', '.join(other[:3])}")
            return files, weight_map
        if found:
            # transformers loads the file of this name, whatever lies beside it.
            only = folder / index.removesuffix(".index.json")
            if only in found and len(found) > 1:
                names = ", ".join(file.name for file in found if file != only)
                notes.append(f"beside {only.name}, ignored: {names}")
                found = [only]
            _check_numbers(found)
            return found, None
    raise NotACheckpoint(f"{folder}: no safetensors and no pytorch_model.bin file is here")


def _check_numbers(files: Sequence[Path]) -> None:
    """Without an index the names tell how many files there should be."""
    matches = [match for file in files if (match := _NUMBERED.search(file.name))]
    if matches:
        total = int(matches[0][2])
        missing = sorted(set(range(1, total + 1)) - {int(match[1]) for match in matches})
        if missing:
            raise MissingShard(
                f"{files[0].parent}: found {len(matches)} of {total} files; "
                f"missing are numbers {', '.join(map(str, missing[:8]))}"
            )


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CorruptFile(f"{index}: has no weight_map")
    folder = Path(os.path.realpath(index.parent))
    if not weight_map:
        raise CorruptFile(f"{index}: names no file")
    for name in set(weight_map.values()) if _all_text(weight_map) else [None]:
        if name is None or not _is_file_name(name):
            raise CorruptFile(f"{index}: names {name!r}; only files beside the index may be named")
        real = Path(os.path.realpath(index.parent / name))
        # The hub's cache links each file to ../../blobs; any other way out is refused.
        blobs = folder.parent.parent / "blobs"
        if real.parent not in (folder, blobs):
            raise CorruptFile(f"{index}: {name!r} is a link out of the folder, to {real}")
    return weight_map


def _all_text(weight_map: dict[str, Any]) -> bool:
    return all(isinstance(name, str) for name in weight_map.values())


def _is_file_name(name: str) -> bool:
    """Return whether this names a file and no folder, one that the system can be asked for."""
    try:
        inside = os.path.basename(name) == name  # noqa: PTH119
        return inside and name not in ("", ".", "..") and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _check_index(folder: Path, weight_map: dict[str, str], tensors: dict[str, TensorRef]) -> None:
    for name, file in weight_map.items():
        ref = tensors.get(name)
        if ref is None or ref.file.name != file:
            where = "is in no file" if ref is None else f"is in {ref.file.name}"
            raise CorruptFile(f"{folder}: the index puts {name!r} into {file}, but it {where}")


def read_object(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; raises CorruptFile if it holds none."""
    try:
        document = safetensors.read_json(read_small(file, MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{file}: is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CorruptFile(f"{file}: is not a JSON object")
    return document


def read_weights(file: Path) -> dict[str, TensorRef]:
    """Return the tensors of one safetensors or torch.save file by name."""
    if file.suffix == ".safetensors":
        return safetensors.read_header(file)
    tree = torch_zip.read_index(file)
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict) or not tree:
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    odd = [key for key, value in tree.items() if not isinstance(value, TensorRef)]
    if odd:
        raise CorruptFile(
            f"{file}: {odd[0]!r} is not a plain tensor; a Hugging Face file holds only those"
        )
    return {str(name): torch_zip.named(ref, str(name)) for name, ref in tree.items()}
