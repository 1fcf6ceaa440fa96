"""Which weight files of a Hugging Face folder are read: those that transformers loads."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.errors import CkptDiffError, CorruptFile, MissingShard, NotACheckpoint
from ckptdiff.formats.files import is_file_name, open_regular, read_at
from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.safetensors import begins_as_header
from ckptdiff.formats.torch_zip import begins_as_torch
from ckptdiff.text import printable, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

# What transformers looks for, in this order: each file, then its index. Source:
# _get_resolved_checkpoint_files in transformers.modeling_utils.
LOADED = ("model.safetensors", "pytorch_model.bin")
INDICES = tuple(f"{name}.index.json" for name in LOADED)
# Of files that it does not look for.
PATTERNS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
EXPLICIT = "transformers_weights"  # a file or an index that config.json names instead
TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)?\.(safetensors|bin|pt|pth)$")
_VARIANT = re.compile(r"(.+)\.(\w+)\.(safetensors|bin)$")  # model.fp16.safetensors
_INDEX = re.compile(r"\.(?:safetensors|bin)\.index(?:\.\w+)?\.json$")
_WEIGHTS = re.compile(
    r"\.safetensors$|^(?:pytorch|adapter)_model.*\.bin$|^consolidated.*\.pth$|\.gguf$"
    r"|^tf_model.*\.h5$|^flax_model.*\.msgpack$"
)
# Files of torch.save beside weights that hold none, by their names.
_NO_WEIGHTS = re.compile(r"^(optim|sched|rng_state|random_states|scaler|training_args|extra_state)")
_OF_RANKS = re.compile(r"\.distcp$|^model_world_size_\d+_rank_\d+\.pt$")  # of DCP and FSDP
_MAX_NAMED = 4  # of the files that a note names


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to read, and what has to be true of what they hold."""

    files: tuple[Path, ...]
    weight_map: Mapping[str, str] | None = None  # tensor to file, by the index that was followed
    stale_index: Path | None = None  # names files that are not here
    promised: frozenset[str] = frozenset()  # tensors that the stale index names
    ignored: tuple[Path, ...] = ()  # weights and indices beside, which are not read
    notes: tuple[str, ...] = ()


def is_index(path: Path) -> bool:
    """Return whether a file's name is that of an index of weight files."""
    return _INDEX.search(path.name) is not None


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds Hugging Face weights, or an index of some."""
    return has_named_weights(folder) or bool(sole_torch_files(folder))


def has_named_weights(folder: Path) -> bool:
    """Return whether a folder holds files that are weights by their names, or an index of some."""
    return any((folder / index).exists() for index in INDICES) or any(
        next(folder.glob(pattern), None) for pattern in PATTERNS
    )


def weights_beside(folder: Path, read: Collection[Path]) -> tuple[tuple[Path, ...], list[str]]:
    """Return the files in a folder that are weights by their names and are not `read`, and a note.

    For formats whose files are not those that transformers looks for.
    """
    found = tuple(
        child
        for child in sorted(folder.iterdir())
        if (_WEIGHTS.search(child.name) or _OF_RANKS.search(child.name))
        and child not in read
        and child.is_file()
        and child.stat().st_size  # a rank that had nothing to save
    )
    if not found:
        return (), []
    more = ", …" if len(found) > _MAX_NAMED else ""
    named = ", ".join(printable(file.name) for file in found[:_MAX_NAMED])
    return found, [f"also here, not read: {named}{more}"]


def torch_files(folder: Path) -> list[Path]:
    """Return the files of torch.save in a folder, but for those called .bin."""
    found = []
    for file in sorted(f for f in folder.iterdir() if f.suffix in TORCH_SUFFIXES and f.is_file()):
        with suppress(CkptDiffError):
            if kind_of(file) == "torch":
                found.append(file)
    return found


def sole_torch_files(folder: Path) -> list[Path]:
    """Return the one file of torch.save in a folder that may have weights, or the one set of them.

    A set is numbered, `…-00001-of-00002.pt`. Nothing is returned where there are more.
    """
    found = [file for file in torch_files(folder) if not _NO_WEIGHTS.match(file.name)]
    sets = _numbered_sets(file.name for file in found)
    return found if len(found) == 1 or [sorted(f.name for f in found)] == sets else []


def kind_of(file: Path) -> Literal["safetensors", "torch"] | None:
    """Return the format of a file by its first bytes; None if it is neither.

    `torch` is any file of torch.save, also one of the old kind, which cannot be read. Raises
    UnreadableFile.
    """
    with open_regular(file) as fd:
        head = read_at(fd, 0, 1 << 12)
        if begins_as_header(head, os.fstat(fd).st_size):
            return "safetensors"
    # Most zips of torch.save begin with their pickle, whatever the file is called.
    is_zip = head.startswith(b"PK\x03\x04") and file.suffix in TORCH_SUFFIXES
    return "torch" if is_zip or begins_as_torch(head) else None


def choose(folder: Path, config: Mapping[str, Any]) -> Chosen:
    """Return the files of a folder that transformers would load, or else all that are weights.

    Raises MissingShard, CorruptFile, or NotACheckpoint if there are no weight files.
    """
    names = frozenset(child.name for child in folder.iterdir())
    wanted = config.get(EXPLICIT)
    explicit = (wanted,) if isinstance(wanted, str) and wanted in names else ()
    for name in (*explicit, *LOADED):
        if name in names and _INDEX.search(name):
            return by_index(folder / name, names)
        if name in names:
            return _chosen(folder, names, [name], f"transformers loads {name}")
        if f"{name}.index.json" in names:
            return by_index(folder / f"{name}.index.json", names)
    return _unlisted(folder, names)


def by_index(index: Path, names: Collection[str] | None = None) -> Chosen:
    """Return the files that an index names. `names` are those of all files beside it.

    Where none of its files is there, but a complete numbered set is, that set is returned: the
    caller checks that it holds all that the index names. Raises MissingShard or CorruptFile.
    """
    folder = index.parent
    names = frozenset(child.name for child in folder.iterdir()) if names is None else names
    weight_map = _read_weight_map(index)
    files = sorted(set(weight_map.values()))
    missing = [name for name in files if name not in names]
    if not missing:
        chosen = _chosen(folder, names, files, f"{index.name} names others", {index.name})
        return replace(chosen, weight_map=weight_map)
    ending = ".bin" if files[0].endswith(".bin") else ".safetensors"
    others = [
        found
        for found in _numbered_sets(names)
        if found[0].endswith(ending) and not set(found) & set(files) and not _gaps(found)
    ]
    if len(others) != 1:
        raise MissingShard(
            f"{index}: {len(missing)} of {len(files)} files {_are(missing)} missing: "
            f"{', '.join(missing[:5])}. Copy them beside the index, or give a single file."
        )
    (other,) = others
    note = (
        f"{index.name} is stale: {_count(len(missing), 'file')} that it names {_are(missing)} not "
        f"here. The {_count(len(other), 'file')} here, numbered 1 to {len(other)}, hold every "
        "tensor that it names and are read instead; transformers loads them once the index is "
        "written again"
    )
    chosen = _chosen(folder, names, other, "the index does not count", {index.name})
    promised = frozenset(weight_map)
    return replace(chosen, stale_index=index, promised=promised, notes=(note, *chosen.notes))


def check_promised(chosen: Chosen, held: Collection[str]) -> None:
    """Raise MissingShard unless the files read instead of a stale index's hold what it names."""
    lacking = sorted(chosen.promised - set(held))
    if lacking:
        raise MissingShard(
            f"{chosen.stale_index}: names files that are not here. The "
            f"{_count(len(chosen.files), 'file')} that {_are(chosen.files)} here, "
            f"{chosen.files[0].name} first, lack {len(lacking)} of the tensors that it names, "
            f"{shown(lacking[0])} among them. Copy the files that the index names"
        )


def _chosen(
    folder: Path,
    names: Collection[str],
    files: Sequence[str],
    why: str,
    followed: Collection[str] = (),
) -> Chosen:
    """Return these files, and what else is there as ignored, with a note that says why."""
    ignored = sorted(
        name
        for name in names
        if name not in files
        and name not in followed
        and (_WEIGHTS.search(name) or _INDEX.search(name))
    )
    more = f" and {len(ignored) - _MAX_NAMED} more" if len(ignored) > _MAX_NAMED else ""
    note = f"not read, since {why}: {', '.join(ignored[:_MAX_NAMED])}{more}"
    return Chosen(
        tuple(folder / name for name in files),
        ignored=tuple(folder / name for name in ignored),
        notes=(note,) if ignored else (),
    )


def _unlisted(folder: Path, names: Collection[str]) -> Chosen:
    """Return the weight files of a folder in which transformers finds none by itself.

    Variants (model.fp16.safetensors) are left out where the file itself is there.
    """
    indices = [name for name in names if _INDEX.search(name) and _plain_index(name) not in names]
    if len(indices) == 1:
        chosen = by_index(folder / indices[0], names)
        note = f"transformers does not look for {indices[0]}"
        return replace(chosen, notes=(note, *chosen.notes))
    for pattern in PATTERNS:
        found = sorted(file.name for file in folder.glob(pattern))
        variants = {name for name in found if _plain_name(name) in names}
        kept = [name for name in found if name not in variants]
        if not kept:
            continue
        for numbered in _numbered_sets(kept):
            _check_numbers(folder, numbered)
        alone = _VARIANT.match(kept[0]) if len(kept) == 1 else None
        # PEFT looks for an adapter by its own name.
        is_adapter = kept[0].startswith("adapter_model.")
        why = f"PEFT loads {kept[0]}" if is_adapter else "they are variants of what is read"
        chosen = _chosen(folder, names, kept, why)
        note = f"transformers does not look for {kept[0]}{', …' if len(kept) > 1 else ''}"
        if alone is not None and f"{alone[1]}.{alone[3]}" in LOADED:
            note = f"transformers loads {kept[0]} with variant={alone[2]!r} only"
        notes = () if is_adapter else (note,)
        return replace(chosen, notes=(*notes, *chosen.notes))
    if found := [file.name for file in sole_torch_files(folder)]:
        for numbered in _numbered_sets(found):
            _check_numbers(folder, numbered)
        chosen = _chosen(folder, names, found, f"{found[0]} is read")
        others = [file.name for file in torch_files(folder) if file.name not in found]
        note = f"not read: {', '.join(others[:_MAX_NAMED])}{', …' if others[_MAX_NAMED:] else ''}"
        return replace(chosen, notes=(*chosen.notes, *([note] if others else [])))
    raise NotACheckpoint(f"{folder}: no safetensors and no pytorch_model.bin file is here")


def _check_numbers(folder: Path, numbered: Sequence[str]) -> None:
    """Raise MissingShard if a set of numbered files has gaps."""
    if gaps := _gaps(numbered):
        raise MissingShard(
            f"{folder}: found {len(numbered)} of {_total(numbered[0])} files; "
            f"missing are numbers {', '.join(map(str, gaps[:8]))}"
        )


def _plain_name(name: str) -> str | None:
    """Return the name of the file that another one is a variant of; None if it is no variant."""
    numbered = _NUMBERED.match(name)
    if numbered is not None:
        stem, number, total, variant, ending = numbered.groups()
        stem, _, inner = stem.partition(".")  # model.fp16-00001-of-00002.safetensors
        return f"{stem}-{number}-of-{total}.{ending}" if variant or inner else None
    variant = _VARIANT.match(name)
    return None if variant is None else f"{variant[1]}.{variant[3]}"


def _plain_index(name: str) -> str | None:
    """Return the name of the index that another one is a variant of; None if it is no variant."""
    match = re.fullmatch(r"(.+\.index)\.\w+\.json", name)
    return None if match is None else f"{match[1]}.json"


def _numbered_sets(names: Iterable[str]) -> list[list[str]]:
    """Return the files that are numbered, by set, each in the order of the numbers."""
    sets: dict[tuple[str | None, ...], list[str]] = defaultdict(list)
    for name in sorted(names):
        match = _NUMBERED.match(name)
        if match is not None:
            stem, _, total, variant, ending = match.groups()
            sets[stem, total, variant, ending].append(name)
    return list(sets.values())


def _gaps(numbered: Sequence[str]) -> list[int]:
    """Return the numbers that a set of numbered files lacks, such as 2 of `…-00001-of-00003`."""
    found = {int(match[2]) for name in numbered if (match := _NUMBERED.match(name))}
    return sorted(set(range(1, _total(numbered[0]) + 1)) - found)


def _total(name: str) -> int:
    match = _NUMBERED.match(name)
    assert match is not None
    return int(match[3])


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return which file each tensor is in. Raises CorruptFile if it leads out of the folder.

    A file beside the index may be a link to anywhere: people link weights into folders from a
    store, and weights are only read.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CorruptFile(f"{index}: has no weight_map")
    if not weight_map:
        raise CorruptFile(f"{index}: names no file")
    for name in set(weight_map.values()) if _are_texts(weight_map) else [None]:
        if name is None or not is_file_name(name):
            raise CorruptFile(
                f"{index}: names {shown(name)}; only files beside the index may be named"
            )
    return weight_map


def _are_texts(weight_map: dict[str, Any]) -> bool:
    return all(isinstance(name, str) for name in weight_map.values())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
