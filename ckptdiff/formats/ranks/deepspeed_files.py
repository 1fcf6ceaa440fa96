"""Which files of a DeepSpeed checkpoint are there, told by their names alone."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError, MissingShard, MixedShards, UnsupportedLayout
from ckptdiff.formats.files import is_file_name, read_small
from ckptdiff.formats.weight_files import has_named_weights
from ckptdiff.text import plural, printable, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# Each names a folder beside it: DeepSpeed's own, and that of its conversion to universal.
LATEST = ("latest", "latest_universal")
SCRIPT = "zero_to_fp32.py"  # which DeepSpeed copies beside `latest`
UNIVERSAL = "zero"  # the folder with a folder for each weight
FP32 = "fp32"  # the weight itself among the files of a folder for one weight
_MAX_TAG = 255  # bytes of `latest`
_MAX_NAMED = 5
_STEP = re.compile(r"global_step(\d{1,18})$")

_MODEL = re.compile(r"mp_rank_(\d{1,9})_model_states\.pt$")
_MODEL_OF_RANK = re.compile(r"zero_pp_rank_(\d{1,9})_mp_rank_(\d{1,9})_model_states\.pt$")
_OPTIMIZER = re.compile(r"(?:\w{0,9}_)?zero_pp_rank_(\d{1,9})_mp_rank_(\d{1,9})_?optim_states\.pt$")
_EXPERT = re.compile(r"layer_(\d{1,9})_expert_(\d{1,9})_mp_rank_(\d{1,9})_model_states\.pt$")
_LAYER = re.compile(r"layer_\d{1,9}-[\w-]{1,200}model_states\.pt$")
_OLD_EXPERT = re.compile(r"expert_\d{1,9}_mp_rank_\d{1,9}_model_states\.pt$")
_OTHER = re.compile(r"expp_rank_\d{1,9}_mp_rank_\d{1,9}_optim_states\.pt$")
_OF_A_RANK = (_MODEL_OF_RANK, _OPTIMIZER, _EXPERT, _LAYER, _OLD_EXPERT, _OTHER)


@dataclass(slots=True)
class Files:
    """The files in a folder, by the ranks in their names."""

    folder: Path
    models: dict[int, Path] = field(default_factory=dict)  # whole weights, by tensor rank
    parts: dict[int, Path] = field(default_factory=dict)  # ZeRO-3's, by data rank
    optimizers: dict[int, Path] = field(default_factory=dict)  # by data rank
    experts: dict[tuple[int, int], Path] = field(default_factory=dict)  # by layer and expert
    layers: list[Path] = field(default_factory=list)  # of a pipeline
    others: list[Path] = field(default_factory=list)
    tensor_ranks: set[int] = field(default_factory=set)
    is_universal: bool = False

    @property
    def holds_any(self) -> bool:
        weights = (self.models, self.parts, self.experts, self.layers, self.optimizers)
        return any(weights) or self.is_universal

    def all(self) -> tuple[Path, ...]:
        """Return the files of the ranks, in order."""
        found = (self.models, self.parts, self.optimizers, self.experts)
        return tuple(file for files in found for _, file in sorted(files.items()))


def files_of(folder: Path) -> Files:
    """Return the files of DeepSpeed in a folder. Raises MixedShards if one rank has two."""
    found = Files(folder)
    for name in sorted(child.name for child in folder.iterdir() if child.suffix == ".pt"):
        file = folder / name
        if match := _MODEL.match(name):
            _put(found.models, int(match[1]), file)
            found.tensor_ranks.add(int(match[1]))
        elif match := _MODEL_OF_RANK.match(name):
            _put_first(found, found.parts, match, file)
        elif match := _OPTIMIZER.match(name):
            _put_first(found, found.optimizers, match, file)
        elif match := _EXPERT.match(name):
            found.tensor_ranks.add(int(match[3]))
            if int(match[3]) == 0:
                found.experts[int(match[1]), int(match[2])] = file
        elif _LAYER.match(name):
            found.layers.append(file)
        elif _OLD_EXPERT.match(name) or _OTHER.match(name):
            found.others.append(file)
    found.is_universal = next(folder.glob(f"{UNIVERSAL}/*/{FP32}.pt"), None) is not None
    return found


def _put(files: dict[int, Path], rank: int, file: Path) -> None:
    if rank in files:
        raise MixedShards(
            f"{file.parent}: {files[rank].name} and {file.name} are both of rank {rank}, so they "
            "are of different saves; move those of one away"
        )
    files[rank] = file


def _put_first(found: Files, files: dict[int, Path], match: re.Match[str], file: Path) -> None:
    """Take a file of the first tensor rank; of the others it is noted that they are there."""
    found.tensor_ranks.add(int(match[2]))
    if int(match[2]) == 0:
        _put(files, int(match[1]), file)


def is_rank_file(path: Path) -> bool:
    """Return whether a file's name is one that DeepSpeed gives to a rank's part."""
    return any(pattern.match(path.name) for pattern in _OF_A_RANK)


def is_model_file(path: Path) -> bool:
    """Return whether a file's name is that of all weights of a tensor rank."""
    return _MODEL.match(path.name) is not None


def step_of(folder: Path) -> int | None:
    """Return the training step that a folder's name states."""
    match = _STEP.match(folder.name)
    return int(match[1]) if match else None


def tag_of(folder: Path) -> str | None:
    """Return the name of the folder that `latest` names; None without such a file."""
    for name in LATEST:
        with suppress(CkptDiffError, UnicodeDecodeError):
            if (folder / name).is_file():
                tag = read_small(folder / name, _MAX_TAG).decode().strip()
                if is_file_name(tag):
                    return tag
    return None


def holds_files(folder: Path) -> bool:
    """Return whether a folder holds files of DeepSpeed; of those that contradict each other too."""
    if not folder.is_dir():
        return False
    try:
        return files_of(folder).holds_any
    except MixedShards:
        return True


def folder_of(path: Path) -> Path | None:
    """Return the folder of DeepSpeed's files that a folder is or names; None if there is none.

    Where `latest` names a folder that is not there, it is that folder.
    """
    if holds_files(path):
        return path
    tag = tag_of(path)
    if tag is None or has_named_weights(path):
        return None
    named = path / tag
    if holds_files(named):
        return named
    expected = (path / SCRIPT).exists() or _STEP.match(tag)
    return named if expected and not named.exists() else None


def deepspeed_beside(path: Path) -> str | None:
    """Return the name of DeepSpeed's folder beside weights of another format in a folder."""
    tag = tag_of(path)
    return tag if tag is not None and holds_files(path / tag) else None


def check_there(folder: Path) -> None:
    """Raise MissingShard if a folder that `latest` names is not there."""
    if folder.exists():
        return
    beside = [child.name for child in folder.parent.iterdir() if holds_files(child)]
    beside = sorted(beside)[-_MAX_NAMED:]
    hint = f"give one of those that are there: {', '.join(beside)}" if beside else "copy it too"
    raise MissingShard(
        f"{folder.parent}: `latest` names {printable(folder.name)}, which is not there; {hint}"
    )


def check_readable(files: Files) -> None:
    """Raise UnsupportedLayout for parts of other splits than those over data ranks, and others."""
    folder = files.folder
    if files.models and files.parts:
        raise MixedShards(
            f"{folder}: {_first(files.models).name} is of a save without ZeRO-3, and "
            f"{_first(files.parts).name} of one with it; move the files of one away"
        )
    if files.is_universal:
        return
    if files.layers:
        raise UnsupportedLayout(
            f"{folder}: holds the layers of a DeepSpeed pipeline ({files.layers[0].name}, …), each "
            "under names of its own. Export the model with the program that trained it, and give "
            "that folder"
        )
    if files.tensor_ranks - {0}:
        refuse_tensor_ranks(folder, len(files.tensor_ranks))
    if any(map(_OLD_EXPERT.match, (file.name for file in files.others))):
        raise UnsupportedLayout(
            f"{folder}: holds experts as DeepSpeed before 0.5.4 names them, which does not tell "
            "their layers. Load it with DeepSpeed and save it again, and give that folder"
        )


def refuse_tensor_ranks(folder: Path, ranks: int) -> None:
    """Raise UnsupportedLayout for tensors that are split over tensor or pipeline ranks."""
    raise UnsupportedLayout(
        f"{folder}: holds the parts of {plural(ranks, 'model-parallel rank')} of DeepSpeed, and "
        "nothing there says how each tensor was split. Join them with DeepSpeed's ds_to_universal, "
        "and give the folder that it writes"
    )


def check_ranks(folder: Path, files: Mapping[int, Path], ranks: int, what: str) -> None:
    """Raise MissingShard or MixedShards unless there is one file for each of `ranks` ranks.

    `what` names the files of one kind, such as `*_optim_states.pt`.
    """
    there = sum(rank < ranks for rank in files)
    if there < ranks:
        missing = islice((rank for rank in range(ranks) if rank not in files), _MAX_NAMED + 1)
        raise MissingShard(
            f"{folder}: {ranks - there} of {shown(ranks)} files {what} are missing, those of "
            f"{_ranks_in_words(missing)}. Copy them beside the others"
        )
    if len(files) > ranks:
        more = [rank for rank in sorted(files) if rank >= ranks]
        raise MixedShards(
            f"{folder}: was saved by {plural(ranks, 'rank')}, and has files {what} of "
            f"{_ranks_in_words(more)} too, which are of another save; move those away"
        )


def _ranks_in_words(ranks: Iterable[int]) -> str:
    """Return `rank 3`, or `ranks 1, 2, 3, …`."""
    numbers = list(ranks)
    more = ", …" if len(numbers) > _MAX_NAMED else ""
    word = "rank" if len(numbers) == 1 else "ranks"
    return f"{word} {', '.join(map(str, numbers[:_MAX_NAMED]))}{more}"


def _first(files: Mapping[int, Path]) -> Path:
    return files[min(files)]
